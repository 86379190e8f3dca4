"""The ASGI app that serves one engine: its routes, its middleware, and its start and shutdown."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from fastapi import Depends, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from vidret.engine import Engine
from vidret.errors import OptionError
from vidret.language.endpoint import ChatEndpoint
from vidret.serve.access import AccessMiddleware
from vidret.serve.fields import ImageReader
from vidret.serve.files import NO_BODY
from vidret.serve.metrics import MEDIA_TYPE, Metrics, MetricsMiddleware
from vidret.serve.problems import Responses, add_error_handlers, refusals
from vidret.serve.rights import GRANT, OPEN, READ, Right, check_rights
from vidret.serve.routes.asking import ask_routes
from vidret.serve.routes.browsing import browsing_routes
from vidret.serve.routes.collections import collection_routes
from vidret.serve.routes.concepts import concept_routes
from vidret.serve.routes.indexing import Indexer, index_routes
from vidret.serve.routes.knn import knn_routes
from vidret.serve.routes.media import clip_routes, media_routes
from vidret.serve.routes.people import people_routes
from vidret.serve.routes.search import search_routes
from vidret.serve.routes.videos import duplicate_routes, video_routes
from vidret.serve.thumbnails import Thumbnails
from vidret.serve.worker import Worker


class Health(BaseModel):
    """State of the server."""

    status: Literal["ok"]
    version: str


PAGE = Path(__file__).parent / "page"
THUMBNAILS = "thumbnails"  # the folder of thumbnails in the index
METRICS: Responses = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


def create_app(
    engine: Engine,
    indexer: Indexer,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    queue: int = 64,
    timeout: float = 30.0,
    llm: ChatEndpoint | None = None,
) -> ASGIApp:
    """Return the app that serves one index, with exclusive use of the engine while it runs; the caller closes it.

    At most ``queue`` searches and ``queue`` other requests wait, each for ``timeout`` seconds. Without ``llm``,
    questions are refused. For the bind address and the token see ``check_access``.

    Raises:
        VidretError: There is no index, or the host needs a token.
    """
    engine.check_index()  # opens the index once, before several threads read it
    metrics = Metrics()
    worker = Worker(engine, size=queue, timeout=timeout, on_batch=metrics.count_batch)
    metrics.queue.set_function(worker.__len__)
    images, thumbnails = ImageReader(), Thumbnails(engine.path / THUMBNAILS)

    @asynccontextmanager
    async def run_worker(_app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        indexer.close()
        await run_in_threadpool(worker.close)  # in a thread, so that cancelled requests are answered
        images.close()
        thumbnails.close()

    app = FastAPI(
        title="vidret",
        summary="Search videos by text or an image, and locate moments.",
        version=metadata.version("vidret"),
        docs_url=None,  # these pages load scripts from other servers
        redoc_url=None,
        lifespan=run_worker,
        dependencies=[Depends(refuse_unknown)],
        responses=refusals(401, 421, 422, 503),
    )
    add_error_handlers(app)
    app.include_router(search_routes(engine, worker, images))
    app.include_router(duplicate_routes(engine))
    app.include_router(video_routes(engine, worker, images))
    app.include_router(browsing_routes(engine, worker))
    app.include_router(concept_routes(engine, worker, images))
    app.include_router(collection_routes(engine, worker, timeout=timeout))
    app.include_router(people_routes(engine))
    app.include_router(media_routes(engine, thumbnails))
    app.include_router(clip_routes(engine, timeout=timeout))
    app.include_router(ask_routes(engine, worker, thumbnails, llm))
    app.include_router(index_routes(engine, indexer, asks=llm is not None))
    app.include_router(knn_routes(engine, worker, images))
    _add_server_routes(app, engine, metrics)
    check_rights(app)
    guarded = AccessMiddleware(app, host=host, token=token, index=engine.path)
    return HeadMiddleware(MetricsMiddleware(guarded, metrics))


class HeadMiddleware:
    """An app that answers HEAD as GET; the server leaves out the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope.get("method") == "HEAD":
            scope = {**scope, "method": "GET", NO_BODY: True}
        await self._app(scope, receive, send)


async def refuse_unknown(request: Request) -> None:
    """Refuse a URL parameter that the route does not have, such as a misspelt one, as unknown fields are refused."""
    if not request.query_params or not request.url.path.startswith("/api/"):
        return
    described = request.app.openapi()["paths"].get(request.scope["route"].path, {})
    operation = described.get(request.method.lower(), {})
    parameter_names = {parameter["name"] for parameter in operation.get("parameters", ())}
    for name, value in request.query_params.items():
        if name not in parameter_names:
            raise OptionError(f"{name} must not be given, got {value!r:.60}")


def _add_server_routes(app: FastAPI, engine: Engine, metrics: Metrics) -> None:
    """Add the checks of an orchestrator, the metrics and the page."""

    @app.get("/healthz", tags=["server"], dependencies=[OPEN])
    async def check_health() -> Health:
        """Return that the server runs; needs no token."""
        return Health(status="ok", version=app.version)

    @app.get("/readyz", tags=["server"], dependencies=[OPEN])
    def check_readiness() -> Health:
        """Return that the index can be read; needs no token."""
        engine.check_index()
        return Health(status="ok", version=app.version)

    @app.get("/metrics", tags=["server"], dependencies=[READ], response_class=Response, responses=METRICS)
    def read_metrics() -> Response:
        """Return metrics in the text format of Prometheus."""
        return Response(metrics.render(engine.info()), media_type=MEDIA_TYPE)

    anyone = Depends(Right("read", within=lambda _request, _name: True))

    @app.get("/", include_in_schema=False, dependencies=[anyone])
    def show_page(request: Request) -> Response:
        if name := request.scope[GRANT].collection:
            return RedirectResponse(f"api/collections/{quote(name, safe='')}/export?format=html")
        return FileResponse(PAGE / "index.html")

    app.mount("/page", GZipMiddleware(StaticFiles(directory=PAGE)))
