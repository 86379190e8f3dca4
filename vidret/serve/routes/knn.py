"""The API of clip-retrieval, so that its ClipClient works with an index of videos.

Each video is one result, represented by its best frame. Copies of a video are one result: ``deduplicate`` is always on.
Aesthetic and safety models are not provided, and their parameters are ignored.
"""

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import AfterValidator, BaseModel, Field

from vidret.engine import Engine
from vidret.serve.fields import Count, ImageReader, Number, check_excluded_terms
from vidret.serve.problems import RefusedError, refusals
from vidret.serve.rights import READ
from vidret.serve.rows import hit_rows
from vidret.serve.worker import Worker
from vidret.text import sanitize
from vidret.types import MAX_QUERY_LENGTH, Query, SearchOptions


class KnnRequest(BaseModel, json_schema_extra={"examples": [{"text": "a dog", "modality": "image"}]}):
    """A request of clip-retrieval's ClipClient; parameters of models that are not provided are ignored."""

    text: Annotated[str, AfterValidator(check_excluded_terms)] | None = Field(None, max_length=MAX_QUERY_LENGTH)
    image: str | None = Field(None, description="Base64 of an image.")
    image_url: str | None = Field(None, description="Refused: URLs are not fetched.")
    embedding_input: list[Number] | None = Field(None, max_length=8192, description="Vector of the index's encoder.")
    modality: Literal["image", "text"] = "image"
    num_images: Count = Field(40, ge=1, le=1000, description="Number of results with a URL and a caption.")
    num_result_ids: Count | None = Field(
        None, ge=1, le=1000, description="Total number of results; default: num_images."
    )
    indice_name: str | None = None


class KnnRow(BaseModel):
    """A result in the format of clip-retrieval."""

    id: int = Field(examples=[7])
    similarity: float = Field(examples=[0.31])
    url: Annotated[str | None, Field(examples=["http://127.0.0.1:8000/api/videos/7/stream#t=30.5"])] = None
    caption: Annotated[str | None, Field(examples=["beach"])] = None


def knn_routes(engine: Engine, worker: Worker, images: ImageReader) -> APIRouter:
    """Return the two routes that clip-retrieval's clients use."""
    # ClipClient sends JSON without a content type.
    router = APIRouter(tags=["clip-retrieval"], dependencies=[READ], strict_content_type=False)
    index_name = sanitize(engine.path.name)

    async def read_query(body: KnnRequest) -> Query:
        if body.text:
            return body.text
        if body.image is not None:
            return await images.read(body.image)
        if body.embedding_input is not None:
            with np.errstate(over="ignore"):  # the engine refuses infinite values
                return np.array(body.embedding_input, np.float32)
        got = "none" if body.image_url is None else "image_url: URLs are not fetched"
        raise RefusedError(400, f"text, image or embedding_input must be given, got {got}")

    @router.get("/indices-list")
    def list_indices() -> list[str]:
        """List the name of the index."""
        return [index_name]

    @router.post("/knn-service", response_model_exclude_unset=True, responses=refusals(400, 403, 404, 413))
    async def search(body: KnnRequest, request: Request) -> list[KnnRow]:
        """Find videos; the URL of a result is its file at the time of the best frame."""
        if body.indice_name not in (None, index_name):
            raise RefusedError(404, f"indice_name must be {index_name}, got {body.indice_name}")
        if body.modality != "image":
            raise RefusedError(400, "modality must be image, got text: this index holds no captions")
        query = await read_query(body)
        hits = await worker.search(query, SearchOptions(k=body.num_result_ids or body.num_images, copies="show"))
        rows: list[Any] = await run_in_threadpool(hit_rows, engine, hits)  # the fields of rows are made at run time
        root = str(request.base_url).rstrip("/")
        return [
            KnnRow(id=row.video, similarity=row.score, url=f"{root}{row.stream}#t={row.time:g}", caption=row.title)
            if rank < body.num_images
            else KnnRow(id=row.video, similarity=row.score)
            for rank, row in enumerate(rows)
        ]

    return router
