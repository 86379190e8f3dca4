"""Routes to teach concepts, list them and forget them."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field, model_validator

from vidret.engine import Engine
from vidret.serve.fields import TINY_IMAGE, Id, ImageReader, QueryText, Seconds, with_rows_of
from vidret.serve.problems import refusals
from vidret.serve.rights import CHANGE, READ
from vidret.serve.rows import write_row
from vidret.serve.worker import Worker
from vidret.types import Concept, ConceptExample

MAX_EXAMPLES = 64  # per kind, in one request

Name = Annotated[str, Field(min_length=1, max_length=65, examples=["mascot"])]
EXAMPLE = {"image": TINY_IMAGE}


class ExampleRequest(BaseModel, extra="forbid", json_schema_extra={"examples": [EXAMPLE]}):
    """An image, or a span of a video; without start and end, the whole video."""

    image: str | None = Field(None, min_length=1, description="Base64 of an image, as in CurveRequest.")
    name: str = Field("an image", min_length=1, max_length=4096, description="Name of the image in lists of examples.")
    video: Id | None = None
    start: Seconds | None = None
    end: Seconds | None = None

    @model_validator(mode="after")
    def check_kind(self) -> "ExampleRequest":
        """Refuse an example that is neither an image nor a span of a video, or both."""
        if (self.image is None) == (self.video is None):
            raise ValueError("image or video must be given, and not both")
        if self.image is not None and (self.start, self.end) != (None, None):
            raise ValueError("start and end need a video")
        return self


class TeachRequest(BaseModel, extra="forbid", json_schema_extra={"examples": [{"name": "mascot", "yes": [EXAMPLE]}]}):
    """A concept to teach."""

    name: Name
    text: QueryText | None = Field(
        None, description="Text that the encoder reads in place of @name; default: the name."
    )
    yes: list[ExampleRequest] = Field([], max_length=MAX_EXAMPLES, description="Examples that show the concept.")
    no: list[ExampleRequest] = Field([], max_length=MAX_EXAMPLES, description="Examples that do not show it.")
    replace: bool = Field(False, description="Replace an existing concept of that name.")
    add: bool = Field(False, description="Add the examples to an existing concept of that name, if there is one.")


@with_rows_of(Concept)
class ConceptRow(BaseModel):
    """A taught concept, for which @name stands in queries."""


class ConceptsAnswer(BaseModel):
    """The taught concepts, by name."""

    concepts: list[ConceptRow]


def concept_routes(engine: Engine, worker: Worker, images: ImageReader) -> APIRouter:
    """Return the routes under ``/api/concepts``."""
    router = APIRouter(prefix="/api/concepts", tags=["concepts"], dependencies=[READ])

    async def read_example(example: ExampleRequest) -> ConceptExample:
        if example.image is not None:
            return ConceptExample(path=example.name, image=await images.read(example.image))
        assert example.video is not None
        video = await run_in_threadpool(engine.video, example.video)
        return ConceptExample(path=video.paths[0], start=example.start, end=example.end)

    async def read_all(examples: Sequence[ExampleRequest]) -> list[ConceptExample]:
        return [await read_example(example) for example in examples]

    @router.get("")
    def list_taught() -> ConceptsAnswer:
        """List the taught concepts."""
        return ConceptsAnswer(concepts=[write_row(ConceptRow, concept) for concept in engine.concepts()])

    @router.post("", responses=refusals(400, 403, 404, 413), dependencies=[CHANGE])
    async def teach(body: TeachRequest) -> ConceptRow:
        """Teach a concept by examples; @name then stands for it in queries."""
        yes, no = await read_all(body.yes), await read_all(body.no)
        concept = await worker.call(
            lambda engine: engine.teach(body.name, yes, no, text=body.text, replace=body.replace, add=body.add)
        )
        return write_row(ConceptRow, concept)

    @router.delete("/{name}", responses=refusals(403, 404), dependencies=[CHANGE])
    async def forget(name: Annotated[Name, Path()]) -> ConceptsAnswer:
        """Forget a concept, and list the remaining ones."""
        await worker.call(lambda engine: engine.forget(name))
        return await run_in_threadpool(list_taught)

    return router
