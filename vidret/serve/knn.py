"""The door of clip-retrieval: its ClipClient searches videos here as it searches pictures there.

A video is one result, by its best frame; copies are one, so that ``deduplicate`` is always on. Models that judge
beauty or harm are not here: what a request says of them changes nothing.
"""

import numpy as np
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from vidret.engine import Engine
from vidret.serve.pictures import PictureReader
from vidret.serve.problems import RefusedError, refusals
from vidret.serve.rows import hit_rows
from vidret.serve.schemas import KnnRequest, KnnRow
from vidret.serve.worker import Worker
from vidret.text import sanitize
from vidret.types import Query, SearchOptions


def knn_routes(engine: Engine, worker: Worker, pictures: PictureReader) -> APIRouter:
    """Make the two routes that clip-retrieval's clients ask."""
    # ClipClient sends JSON and does not say so.
    router = APIRouter(tags=["clip-retrieval"], strict_content_type=False)
    name = sanitize(engine.path.name)

    async def read_query(asked: KnnRequest) -> Query:
        if asked.text:
            return asked.text
        if asked.image is not None:
            return await pictures.read(asked.image)
        if asked.embedding_input is not None:
            with np.errstate(over="ignore"):  # what is not finite is refused below
                return np.array(asked.embedding_input, np.float32)
        got = "none" if asked.image_url is None else "image_url: nothing is fetched from elsewhere"
        raise RefusedError(400, f"text, image or embedding_input must be given, got {got}")

    @router.get("/indices-list")
    def list_indices() -> list[str]:
        """Name the one index that is searched."""
        return [name]

    @router.post("/knn-service", response_model_exclude_unset=True, responses=refusals(400, 403, 404, 413))
    async def search(asked: KnnRequest, request: Request) -> list[KnnRow]:
        """Find videos, with the address of the file at the best frame's time."""
        if asked.indice_name not in (None, name):
            raise RefusedError(404, f"indice_name must be {name}, got {asked.indice_name}")
        if asked.modality != "image":
            raise RefusedError(400, "modality must be image, got text: this index holds no captions")
        query = await read_query(asked)
        hits = await worker.search(query, SearchOptions(k=asked.num_result_ids or asked.num_images))
        rows = await run_in_threadpool(hit_rows, engine, hits)
        root = str(request.base_url).rstrip("/")
        return [
            KnnRow(id=row.video, similarity=row.score, url=f"{root}{row.stream}#t={row.time:g}", caption=row.title)
            if place < asked.num_images
            else KnnRow(id=row.video, similarity=row.score)
            for place, row in enumerate(rows)
        ]

    return router
