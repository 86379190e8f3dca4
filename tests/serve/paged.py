"""Real films and their index, a server for them, and a browser."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
from playwright.sync_api import Browser, sync_playwright

from tests.browser import FLAGS, HOW_TO_INSTALL, find_browser
from tests.fakes import write_film
from tests.index_server import serve_engine
from tests.indexed_texts import find_content
from vidret.cli.commands.demo import sample_videos
from vidret.encode.encoder import Encoder
from vidret.encode.sentences import DIM, FINGERPRINT, NAME, load_sentence_encoder
from vidret.engine import Engine
from vidret.index.options import IndexReport
from vidret.serve.routes.indexing import Indexer
from vidret.store.texts.store import TextStore
from vidret.types import TimedText

MARKUP = '<i>tilted & "quoted"'
TOUR = (
    ("bigbuckbunny", 5),
    ("bikes", 8),
    ("carphone_pristine", 4),
)  # concatenated sample films, and their durations in seconds
OLD = 1_500_000_000.0  # modification time of the tour: 14 July 2017
REPORT = asdict(IndexReport(encoded=1, failed=[("a", "b")], elapsed=3.0, interrupted=True))
PROGRESS: dict[str, Any] = {"share": 0.25, "done": 1, "files": 4, "failed": 1, "elapsed": 20.0, "left": 60.0}
PROGRESS["file"] = "/films/bikes.mp4"
# A run of ``vidret index`` that prints its progress, and ends when it is interrupted.
STEADY_RUN = f"""
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print({json.dumps(PROGRESS)!r}, file=sys.stderr, flush=True)
signal.sigwait([signal.SIGINT])
print({json.dumps(REPORT)!r})
"""


def write_library(folder: Path) -> Path:
    """Write films: real ones, an unplayable one, one with a strange name, a broken one, and one to be deleted."""
    films, samples = folder / "films", sample_videos()
    (films / "people").mkdir(parents=True)
    shutil.copy(samples / "bikes.mp4", films)
    shutil.copy(samples / "carphone_pristine.mp4", films / "people" / "phone.mp4")
    shutil.copy(samples / "carphone_distorted.mp4", films / "gone.mp4")
    join_films([(samples / f"{name}.mp4", seconds) for name, seconds in TOUR], films / "tour.mp4")
    join_films([(samples / "bigbuckbunny.mp4", 3)], films / "old.avi", codec="mpeg4")
    write_film(films / f"{MARKUP}.mp4", ("blue", 3))
    (films / "broken.mp4").write_bytes(b"no film at all" * 100)
    os.utime(films / "tour.mp4", (OLD, OLD))
    return films


def join_films(parts: list[tuple[Path, float]], out: Path, *, codec: str = "libx264", rate: int = 12) -> None:
    """Write the first seconds of several films as one small film."""
    with av.open(str(out), "w") as container:
        stream = cast(Any, container.add_stream(codec, rate=rate))
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 320, 180, "yuv420p", rate
        num_frames = 0
        for path, seconds in parts:
            with av.open(str(path)) as film:
                due = 0.0
                for frame in film.decode(video=0):
                    if frame.time is None or frame.time < due or due >= seconds:
                        continue
                    small = frame.reformat(320, 180, "yuv420p")
                    small.pts, small.time_base = num_frames, Fraction(1, rate)
                    container.mux(stream.encode(small))
                    num_frames, due = num_frames + 1, due + 1 / rate
        container.mux(stream.encode())


@contextlib.contextmanager
def serve_page(
    engine: Engine, *, roots: tuple[Path, ...] = (), token: str | None = None, **settings: Any
) -> Iterator[str]:
    """Serve an engine on a free port, and yield the URL of its page."""
    with serve_engine(engine, indexer=Indexer([], roots, program=STEADY_RUN), token=token, **settings) as url:
        yield f"{url}/" + (f"?token={token}" if token else "")


def make_index(folder: Path, encoder: Encoder, films: Path | None = None) -> Engine:
    """Return an engine with an index of films, or with an empty one."""
    engine = Engine.open(folder, encoder=encoder)
    engine.index([films] if films else [])
    return engine


def write_words(index: Path, name: str, texts: Sequence[TimedText]) -> None:
    """Add the words of a film to an index, with real sentence vectors."""
    content = find_content(index, name)
    with TextStore.create(index, encoder=NAME, fingerprint=FINGERPRINT, dim=DIM) as store:
        for source in dict.fromkeys(text.source for text in texts):
            source_texts = [text for text in texts if text.source == source]
            track = store.begin(content, source, "model", duration_s=60.0)
            vectors = load_sentence_encoder().encode([text.text for text in source_texts])
            store.add(track, source_texts, vectors, until_s=source_texts[-1].end)
            store.finish(track)
        store.save()


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Start the browser that was found for these tests, and yield it."""
    path = find_browser()
    assert path is not None, HOW_TO_INSTALL
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[f"--{flag}" for flag in FLAGS.split()])
        yield browser
        browser.close()
