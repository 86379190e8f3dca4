"""The request and the events of a question about videos."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from vidret.answers.questions import MAX_QUESTION
from vidret.answers.retrieval import DEFAULT_CONTEXT
from vidret.serve.fields import Id
from vidret.serve.schemas import LikelihoodField, ProbabilityField, TextRow

MAX_VIDEOS = 100  # of one question
MAX_MOMENTS = 20


class AskRequest(BaseModel):
    """A question about videos."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"question": "who opens the door?"}]})

    question: Annotated[str, Field(min_length=1, max_length=MAX_QUESTION)]
    videos: list[Id] = Field([], max_length=MAX_VIDEOS, description="Videos to look in; default: all of them.")
    moments: int = Field(DEFAULT_CONTEXT.moments, ge=1, le=MAX_MOMENTS, description="Maximum number of moments.")
    max_s: float = Field(DEFAULT_CONTEXT.max_s, ge=1, le=60, description="Maximum duration of a moment in seconds.")
    margin_s: float = Field(DEFAULT_CONTEXT.margin_s, ge=0, le=30, description="Seconds added on both sides.")
    frames: int = Field(DEFAULT_CONTEXT.frames, ge=0, le=8, description="Frames of each moment.")
    width: int = Field(DEFAULT_CONTEXT.width, ge=32, le=1280, description="Maximum width of a frame in pixels.")
    characters: int = Field(
        DEFAULT_CONTEXT.characters, ge=0, le=100_000, description="Maximum characters of words, in all moments."
    )
    llm_queries: bool = Field(
        DEFAULT_CONTEXT.llm_queries, description="Whether the model also writes queries, in one more request."
    )


class AskedMoment(BaseModel):
    """A moment that may answer the question; ``number`` is what the answer cites."""

    number: int = Field(examples=[1])
    video: int = Field(examples=[7])
    path: str = Field(examples=["/videos/beach.mp4"])
    title: str = Field(examples=["beach"])
    duration: float = Field(description="Of the video.", examples=[90.0])
    start: float = Field(examples=[42.0])
    end: float = Field(examples=[50.5])
    probability: ProbabilityField
    likelihood: LikelihoodField
    lines: list[TextRow]
    thumbnail: str = Field(examples=["/api/thumbnails/7?t=46.25"])
    stream: str = Field(examples=["/api/videos/7/stream"])


class MomentsEvent(BaseModel):
    """The first event, ``moments``: what was retrieved, by video and time."""

    question: str
    moments: list[AskedMoment]
    notes: list[str] = Field(description="What could not be read.")


class TextEvent(BaseModel):
    """The event ``text``: the answer so far, which the next one replaces."""

    text: str = Field(examples=["A man opens it [1]"])


class AnswerEvent(BaseModel):
    """The last event, ``answer``."""

    text: str = Field(description="Without citations of other moments.", examples=["A man opens it [1]."])
    shown: bool = Field(description="Whether the videos show it, by the model's account.")
    cited: list[int] = Field(description="Numbers of the moments that it cites.", examples=[[1]])
    notes: list[str] = Field(description="What was removed or is missing.")
