"""Options of the commands that ask a language model, or let one rerank hits."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.options import option, option_field
from vidret.present.terminal import load_console

if TYPE_CHECKING:
    from vidret.client import RemoteEngine
    from vidret.engine import Engine
    from vidret.language.endpoint import ChatEndpoint
    from vidret.language.judging import Judge, JudgeOptions
    from vidret.language.retrieval import DrawFrame
    from vidret.types import Hit

LANGUAGE_MODEL = "Language model"
LlmModelOption = Annotated[
    str | None, option("Model of the endpoint.", LANGUAGE_MODEL, "NAME", envvar="VIDRET_LLM_MODEL")
]
LlmTimeoutOption = Annotated[
    float, option("Maximum time of one request to the endpoint.", LANGUAGE_MODEL, "SECONDS", min=0.1)
]


def make_endpoint(
    llm: str | None, model: str | None, timeout_s: float, *, name: str = "llm", hint: str = ""
) -> "ChatEndpoint":
    """Return the endpoint of the options ``--name`` and ``--name-model``; ``hint`` names an alternative without one."""
    from vidret.language.endpoint import KEY_VARIABLE, ChatEndpoint

    for flag, value in ((f"--{name}", llm), (f"--{name}-model", model)):
        if not value:
            raise typer.BadParameter(f"must be given{hint}, got none", param_hint=flag)
    return ChatEndpoint(url=llm or "", model=model or "", key=os.environ.get(KEY_VARIABLE) or None, timeout_s=timeout_s)


LOCAL_METHODS, ENDPOINT_METHODS = ("icr", "first"), ("list", "pair")
FRAME_WIDTH = 384  # pixels
FOLDER = "judged"  # in the index, caches answers of endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """The options of a language model that reranks hits."""

    judge: str | None = option_field(
        "Language model that reranks the best videos by their file names and words: a chat endpoint in OpenAI's style "
        "with --llm-model, or a causal model of transformers on this machine (a folder or org/name).",
        LANGUAGE_MODEL,
        "URL|MODEL",
    )
    judge_top: int = option_field(
        "Number of best videos that --judge reranks.", LANGUAGE_MODEL, "N", default=20, min=2, max=100
    )
    judge_by: str = option_field(
        "How --judge works. A local model: icr (attention, any model) or first (first token, for models trained "
        "for it). An endpoint: list (10 at a time) or pair (2 at a time). auto is icr or list.",
        LANGUAGE_MODEL,
        "|".join(("auto", *LOCAL_METHODS, *ENDPOINT_METHODS)),
        default="auto",
    )
    judge_permutations: int = option_field(
        "Number of shuffled orders in which --judge sees the videos; their ranks are averaged.",
        LANGUAGE_MODEL,
        "N",
        default=1,
        min=1,
        max=20,
    )
    judge_frames: int = option_field(
        "Number of frames of each video to send to an endpoint with vision.",
        LANGUAGE_MODEL,
        "N",
        default=0,
        min=0,
        max=4,
    )
    llm_model: LlmModelOption = None
    llm_timeout: LlmTimeoutOption = 120.0

    def check(self) -> None:
        """Refuse a judge's options without ``--judge``, except those of the endpoint, which all commands may share."""
        if self.judge is None and self != JudgeSettings(llm_model=self.llm_model, llm_timeout=self.llm_timeout):
            raise typer.BadParameter("must be given with the options of a judge, got none", param_hint="--judge")


def make_judge(settings: JudgeSettings, device: str, cache: Path | None) -> "tuple[Judge, JudgeOptions]":
    """Return the judge and its options; a local model is loaded, answers of an endpoint are kept in ``cache``."""
    from vidret.language.judging import JudgeOptions

    assert settings.judge is not None
    is_url = "://" in settings.judge
    methods = ENDPOINT_METHODS if is_url else LOCAL_METHODS
    by = methods[0] if settings.judge_by == "auto" else settings.judge_by
    if by not in methods:
        raise typer.BadParameter(f"must be {', '.join(methods)}, got {by}", param_hint="--judge-by")
    if settings.judge_frames and not is_url:
        raise typer.BadParameter(
            "needs --judge URL, got a local model, which reads words only", param_hint="--judge-frames"
        )
    # ICR compares all candidates in one prompt; a pair moves through the list as in bubble sort
    window, step = {"icr": (settings.judge_top, 1), "pair": (2, 1)}.get(by, (10, 5))
    options = JudgeOptions(top=settings.judge_top, window=window, step=step, permutations=settings.judge_permutations)
    if is_url:
        from vidret.language.endpoint import ReplyCache
        from vidret.language.judges import EndpointJudge

        endpoint = make_endpoint(settings.judge, settings.llm_model, settings.llm_timeout)
        return EndpointJudge(endpoint, ReplyCache(cache)), options
    with load_console().status("loading the judge"):
        from vidret.devices import choose_device
        from vidret.encode.causal import load_causal_model
        from vidret.language.judges import FirstJudge, IcrJudge

        model = load_causal_model(settings.judge, device=choose_device(device))
    return (IcrJudge if by == "icr" else FirstJudge)(model), options


@contextmanager
def open_frames_of(engine: "Engine | RemoteEngine") -> "Iterator[DrawFrame]":
    """Yield the function that draws frames of videos, on the server or in a local process."""
    from vidret.client import RemoteEngine
    from vidret.language.judging import FileFrames

    if isinstance(engine, RemoteEngine):
        yield lambda video, time_s, width: engine.frame(video.id, time_s, width)
        return
    with FileFrames() as files:
        yield files.draw


def draw_hit(engine: "Engine | RemoteEngine", draw: "DrawFrame", count: int, hit: "Hit") -> tuple[bytes, ...]:
    """Return some frames of the best segment of a hit."""
    from vidret.language.retrieval import spread_times

    times = spread_times(hit.segment.start, hit.segment.end, count)
    return tuple(draw(engine.video(hit.video), time_s, FRAME_WIDTH) for time_s in times)
