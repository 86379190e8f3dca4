"""The routes, joined around one engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from vidret.engine import Engine
from vidret.serve import metrics as numbers
from vidret.serve.indexing import Indexer, index_routes
from vidret.serve.knn import knn_routes
from vidret.serve.media import media_routes
from vidret.serve.metrics import Measured, Metrics
from vidret.serve.pictures import PictureReader
from vidret.serve.problems import Described, answer_errors, refusals
from vidret.serve.safety import Guarded
from vidret.serve.schemas import Health
from vidret.serve.search import search_routes
from vidret.serve.thumbnails import Thumbnails
from vidret.serve.videos import video_routes
from vidret.serve.worker import Worker

PAGE = Path(__file__).parent / "page"
THUMBNAILS = "thumbnails"  # the folder of an index that holds them
NUMBERS: Described = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


def create_app(
    engine: Engine,
    indexer: Indexer,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    queue: int = 64,
    timeout: float = 30.0,
) -> ASGIApp:
    """Make the app that serves one index.

    Args:
        engine: The engine; the app's alone while it runs, and closed by whoever opened it.
        indexer: What indexes more, where it is allowed to.
        host: What the app is listened to on; see ``check_door`` for what that asks of ``token``.
        token: What requests must show.
        queue: How many searches may wait for the engine, and how many other questions.
        timeout: Seconds that a request may wait for its answer.

    Raises:
        VidretError: There is no index, or the host needs a token.
    """
    engine.info()  # opens the index, once, before several threads read it
    metrics = Metrics()
    worker = Worker(engine, size=queue, timeout=timeout, on_batch=metrics.count_batch)
    metrics.queue.set_function(worker.__len__)
    pictures, thumbnails = PictureReader(), Thumbnails(engine.path / THUMBNAILS)

    @asynccontextmanager
    async def live(_app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        indexer.close()
        worker.close()
        pictures.close()
        thumbnails.close()

    version = metadata.version("vidret")
    app = FastAPI(
        title="vidret",
        summary="Search videos by words or a picture, and find the moments.",
        version=version,
        docs_url=None,  # these pages load what they need from elsewhere
        redoc_url=None,
        lifespan=live,
        responses=refusals(401, 421, 422, 503),
    )
    answer_errors(app)
    app.include_router(search_routes(engine, worker, pictures))
    app.include_router(video_routes(engine, worker, pictures))
    app.include_router(media_routes(engine, thumbnails))
    app.include_router(index_routes(engine, indexer))
    app.include_router(knn_routes(engine, worker, pictures))

    @app.get("/healthz", tags=["server"])
    def tell_health() -> Health:
        """Say that the server is up."""
        return Health(status="ok", videos=engine.info().videos, version=version)

    @app.get("/metrics", tags=["server"], response_class=Response, responses=NUMBERS)
    def tell_metrics() -> Response:
        """Give the server's numbers in Prometheus' text format."""
        return Response(metrics.tell(engine.info()), media_type=numbers.KIND)

    @app.get("/", include_in_schema=False)
    def show_page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE))
    return Measured(Guarded(app, host=host, token=token), metrics)
