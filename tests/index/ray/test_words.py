"""Words on Ray: read in the same pass, stored in their order however they arrive, and resumed."""

import itertools
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.index.ray.conftest import Nodes
from tests.index.samples import read_contents
from tests.word_films import SUBTITLES, shown, write_worded
from vidret.channels.registry import READ_KINDS
from vidret.channels.texts.options import WordsOptions
from vidret.channels.texts.reading import READER
from vidret.channels.texts.run import ContentWords, open_words
from vidret.encode.sentences import DIM
from vidret.engine import Engine
from vidret.errors import ChangedError, DecodeError, UnreachableError
from vidret.index.options import FileJob
from vidret.index.run_state import RunState
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import Frames, TextSource, TimedText
from vidret.video.identity import identify
from vidret.video.sampling import SampledFrames
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers.messages import (
    Finished,
    FinishedTexts,
    Message,
    OpenedVideo,
    ReadTexts,
    SegmentStart,
    WordsRequest,
)

pytestmark = [
    pytest.mark.scale,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::UserWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
pytest.importorskip("ray")
rows = pytest.importorskip("vidret.index.ray.rows")
reading = pytest.importorskip("vidret.index.ray.workers")
results = pytest.importorskip("vidret.index.ray.driver")

PATIENCE = 1200  # seconds: a busy machine starts a dozen processes slowly
END_S, STEP_S = 60.0, 10.0
END_TIMES = [STEP_S * (step + 1) for step in range(6)]
Rows = list[tuple[Any, Any]]


class ScriptedPool:
    """Decodes a film of two segments with a text of each source every ten seconds; subtitles come all at once."""

    def __init__(self, *failures: tuple[int, DecodeError]) -> None:
        """Fail with each error in turn, after so many messages about the same file."""
        self._failures = list(failures)

    def stream(
        self,
        path: str,
        *,
        skip: Callable[[OpenedVideo], object],
        start: Callable[[OpenedVideo], SegmentStart | None],
        words: Callable[[OpenedVideo], WordsRequest],
        words_reader: str,
    ) -> Iterator[Message]:
        assert words_reader == READER
        messages = self._messages(start, words)
        for number in itertools.count():
            if self._failures and number == self._failures[0][0]:
                raise self._failures.pop(0)[1]
            if (message := next(messages, None)) is None:
                return
            yield message

    def _messages(
        self, start: Callable[[OpenedVideo], SegmentStart | None], words: Callable[[OpenedVideo], WordsRequest]
    ) -> Iterator[Message]:
        opened = OpenedVideo({"start": 0.0}, END_S, [], 2, "pyav", "")
        first, request = start(opened), dict(words(opened))
        yield opened
        for number in range(2):
            yield from (each for each in self._texts("screen", request) if number == (each.until_s - 1) // 30)
            if first is not None and number >= first[0]:
                pictures = Frames(np.full((1, 2, 2, 3), number, np.uint8), np.array([30.0 * number]))
                yield DecodedSegment(number, 30.0 * number, 30.0 * number + 30.0, SampledFrames.all_different(pictures))
        yield from self._end("screen", request)
        yield Finished("")
        yield from self._texts("speech", request)
        yield from self._end("speech", request)
        yield from self._texts("sound", request)
        yield from self._end("sound", request)
        for end_s in END_TIMES if "subtitles" in request else ():
            yield ReadTexts("subtitles", END_S, [make_text("subtitles", end_s)])
        yield from self._end("subtitles", request)

    def _texts(self, source: TextSource, request: WordsRequest) -> Iterator[ReadTexts]:
        start_s = float(request[source]["start_s"]) if source in request else END_S
        yield from (ReadTexts(source, end_s, [make_text(source, end_s)]) for end_s in END_TIMES if end_s > start_s)

    def _end(self, source: TextSource, request: WordsRequest) -> Iterator[FinishedTexts]:
        if source in request:
            yield FinishedTexts(source, "")


def make_text(source: TextSource, end_s: float) -> TimedText:
    return TimedText(end_s - 4, end_s - 2, f"{source} at {end_s:.0f}", source, 0.5)


EVERYTHING = {source: [make_text(source, end_s) for end_s in END_TIMES] for source in READ_KINDS}


class Run:
    """A run on one film and its copy, of which rows are written as they would come from workers."""

    def __init__(self, index: Path, store: Store, words: Any) -> None:
        self.store, self.words = store, words
        paths = [index.with_name(name) for name in ("film.mp4", "copy.mp4")]
        for path in paths:
            path.write_bytes(b"a film")
        self.identity = identify(paths[0])
        self.state = RunState(store, retry_failed=False, words=words)
        self.state.jobs = [FileJob(str(path), 6, 1) for path in paths]
        request = words.plan(self.identity.fingerprint, map(str, paths))
        self.content = rows.ContentTask(
            content_index=0,
            fingerprint=self.identity.fingerprint,
            files=tuple(enumerate(map(str, paths))),
            stamps=tuple(identify(path).stamp for path in paths),
            words=rows.WordsTask(self.identity.fingerprint, tuple(map(str, paths)), request),
        )
        self.writer = results.ResultWriter(self.state, [self.content])

    def read(self, *failures: tuple[int, DecodeError]) -> Rows:
        """Return the rows of a worker whose decoder fails so."""
        return list(reading.ContentReader(self.content, ScriptedPool(*failures), lambda: False).read())

    def write(self, incoming: Rows) -> None:
        self.writer.write([encode(*row) for row in incoming])

    def texts(self) -> dict[TextSource, list[TimedText]]:
        return {
            track.source: [each.text for each in self.words.store.transcript(track)]
            for track in self.words.store.tracks()
        }

    def notes(self) -> dict[TextSource, str | None]:
        """Return the note of each track, None if it is not complete."""
        return {track.source: track.note if track.complete else None for track in self.words.store.tracks()}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    index = tmp_path / "index"
    with (
        Store.create(index, encoder_name="none", encoder_fingerprint="0", dim=2) as store,
        open_words(store, WordsOptions(), retry_failed=False) as words,
    ):
        yield Run(index, store, words)


def encode(row: Any, payload: Any) -> tuple[Any, Any]:
    """Do what the encoding stage does, with zeros for vectors of texts; segments are left out."""
    if isinstance(row, rows.TextsRow) and isinstance(row.message, ReadTexts):
        return row, np.zeros((len(row.message.texts), DIM), np.float32).tobytes()
    return (None if isinstance(row, rows.DecodedRow) else row), payload


@pytest.mark.parametrize("seed", range(5))
def test_words_in_any_order_and_repeated_words_are_stored_once(run: Run, seed: int) -> None:
    rng = random.Random(seed)
    sent, again = run.read(), run.read()
    incoming = [*sent, *rng.sample(again, 10)]
    rng.shuffle(incoming)
    while incoming:
        size = rng.randint(1, 4)
        run.write(incoming[:size])
        del incoming[:size]
    assert run.texts() == EVERYTHING
    assert run.notes() == dict.fromkeys(READ_KINDS, "")
    assert run.state.words is not None
    assert run.state.words.counts() == dict.fromkeys(sorted(READ_KINDS), 6)


def test_a_task_that_is_repeated_may_send_only_what_was_not_received(run: Run) -> None:
    sent, again = run.read(), run.read()
    run.write(sent[:9])
    assert None in run.notes().values()
    run.write(again[9:])
    assert run.texts() == EVERYTHING
    assert run.notes() == dict.fromkeys(READ_KINDS, "")


@pytest.mark.parametrize("source", READ_KINDS)
def test_words_after_a_gap_wait_so_that_the_next_run_reads_them(run: Run, source: TextSource) -> None:
    sent = run.read()
    own = [row for row in sent if isinstance(row[0], rows.TextsRow) and row[0].message.source == source]
    run.write([row for row in sent if row is not own[3]])
    track = next(track for track in run.words.store.tracks() if track.source == source)
    assert (run.texts()[source], track.complete) == (EVERYTHING[source][:3], False)
    if source != "subtitles":  # which are read from the start every time
        assert track.until_s == 3 * STEP_S
        assert run.words.plan(run.identity.fingerprint, [])[source]["start_s"] == 3 * STEP_S
    run.write([own[3]])
    assert run.texts() == EVERYTHING
    assert run.notes() == dict.fromkeys(READ_KINDS, "")


def test_a_crash_over_words_spares_the_pictures_and_the_other_words(run: Run) -> None:
    crash = DecodeError("film.mp4", "the decoder crashed (signal 11)")
    sent = run.read((4, crash), (6, crash))  # while text is read from frames, and then over speech
    run.write(sent)
    assert run.notes() == {"screen": crash.reason, "speech": crash.reason, "subtitles": "", "sound": ""}
    assert run.texts()["screen"] == EVERYTHING["screen"][:3]
    finished = [row for row, _ in sent if isinstance(row, rows.ContentFinished)]
    segments = [row.segment.number for row, _ in sent if isinstance(row, rows.DecodedRow)]
    assert (segments, [row.num_segments for row in finished]) == ([0, 1], [2])
    assert not any(isinstance(row, rows.FileFailed) for row, _ in sent)


def test_a_file_that_cannot_be_opened_gives_up_no_words(run: Run) -> None:
    broken = DecodeError("film.mp4", "is not a video")
    sent = run.read((0, broken), (0, broken))
    assert [(row.job_index, row.words_only) for row, _ in sent] == [(0, False), (1, False)]
    run.write(sent)
    assert run.words.store.tracks() == []
    assert [path for path, _ in run.state.close().failed] == sorted(job.path for job in run.state.jobs)


@pytest.mark.parametrize(
    ("error", "words_only"),
    [(UnreachableError("film.mp4", "is away"), True), (ChangedError("film.mp4", "changed"), False)],
)
def test_the_copy_of_a_file_that_is_lost_gives_its_other_words(run: Run, error: DecodeError, words_only: bool) -> None:
    sent = run.read((12, error))
    [failed] = [row for row, _ in sent if isinstance(row, rows.FileFailed)]
    assert (failed.job_index, failed.words_only) == (0, words_only)
    run.write(sent)
    assert run.texts() == EVERYTHING
    assert run.notes() == dict.fromkeys(READ_KINDS, "")


def test_files_of_which_only_words_are_wanted_are_counted_once(run: Run) -> None:
    run.content = replace(run.content, has_pictures=True)
    run.state.jobs = [replace(job, is_stored=True) for job in run.state.jobs]
    run.writer = results.ResultWriter(run.state, [run.content])
    sent = run.read((2, UnreachableError("film.mp4", "is away")))
    assert not any(isinstance(row, (rows.DecodedRow, rows.ContentFinished)) for row, _ in sent)
    run.write([*sent, *sent])
    assert run.texts() == EVERYTHING
    assert run.state.close().failed == [(run.state.jobs[0].path, "its words could not be read: is away")]
    assert (run.state._counts["words"], run.state._counts["failed"]) == (1, 1)


# On a cluster


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a long film of shown words, two short ones, silence, and subtitles inside and beside."""
    folder = tmp_path_factory.mktemp("films")
    scenes = [(text, 5.0) for text in ("lighthouse", "", "railway bridge", "", "harbour", "", "orchard", "")]
    write_worded(folder / "long.mkv", *scenes, silence=True, subtitles=SUBTITLES)
    write_worded(folder / "market.mp4", ("market", 3.0), salt=1)
    write_worded(folder / "quiet.mp4", ("", 2.0), salt=2)
    (folder / "market.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nGood morning.\n")
    return folder


def open_engine(index: Path, model: Path) -> Engine:
    return Engine.open(index, encoder=str(model), device="cpu", precision="fp32")


def on_ray(nodes: Nodes) -> Any:
    from vidret.index.ray.run import index_on_ray

    return partial(index_on_ray, address=nodes.address, precision="fp32")


def read_words(index: Path) -> dict[str, tuple[bool, str, list[TimedText], bytes]]:
    """Return the tracks of an index: whether they are complete, their notes, texts and vectors."""
    tracks = {}
    with TextStore.open(index) as store:
        for track in store.tracks():
            texts = store.transcript(track)
            vectors = b"".join(row.tobytes() for row in store.intact_vectors([each.id for each in texts]).values())
            key = f"{track.fingerprint} {track.source} {track.model}"
            tracks[key] = track.complete, track.note, [each.text for each in texts], vectors
    return tracks


@pytest.fixture(scope="module")
def whole(films: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index of the films and their words that was made on threads."""
    index = tmp_path_factory.mktemp("whole") / "index"
    report = open_engine(index, model).index([films], words=True)
    assert report.texts == {"screen": 5, "speech": 0, "subtitles": 3, "sound": 1}
    return index


def test_words_read_on_two_nodes_equal_those_read_on_threads(
    nodes: Nodes, films: Path, whole: Path, model: Path, tmp_path: Path
) -> None:
    report = open_engine(tmp_path / "index", model).index([films], words=True, run=on_ray(nodes))
    assert (report.encoded, report.failed) == (3, [])
    assert report.texts == {"screen": 5, "speech": 0, "subtitles": 3, "sound": 1}
    assert read_words(tmp_path / "index") == read_words(whole)
    assert read_contents(tmp_path / "index") == read_contents(whole)
    assert open_engine(tmp_path / "index", model).index([films], run=on_ray(nodes)).texts == {}


def test_words_are_added_on_ray_without_encoding_again(
    nodes: Nodes, films: Path, whole: Path, model: Path, tmp_path: Path
) -> None:
    open_engine(tmp_path / "index", model).index([films], words=False)
    assert not TextStore.exists(tmp_path / "index")
    report = open_engine(tmp_path / "index", model).index([films], words=True, run=on_ray(nodes))
    assert (report.unchanged, report.encoded, report.num_segments) == (3, 0, 0)
    assert report.texts == {"screen": 5, "speech": 0, "subtitles": 3, "sound": 1}
    assert read_words(tmp_path / "index") == read_words(whole)


def test_lost_node_loses_no_words(
    nodes: Nodes, films: Path, whole: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, calls = ContentWords.add, list[str]()

    def add_and_lose(self: ContentWords, message: ReadTexts, vectors: Any = None) -> None:
        add(self, message, vectors)
        calls.append(message.source)
        if len(calls) == 1:
            nodes.lose_one()

    monkeypatch.setattr(ContentWords, "add", add_and_lose)
    report = open_engine(tmp_path / "index", model).index([films], words=True, run=on_ray(nodes))
    assert (report.encoded, report.failed) == (3, [])
    assert read_words(tmp_path / "index") == read_words(whole)
    assert read_contents(tmp_path / "index") == read_contents(whole)


# Index on a local Ray, and die after some messages of words were stored. Arguments: index, films, model, messages.
SCRIPT = """
import os, signal, sys
from functools import partial
from vidret.engine import Engine
from vidret.index.ray.run import index_on_ray
from vidret.channels.texts.run import ContentWords
index, films, model, after = sys.argv[1:]
add, calls = ContentWords.add, []
def add_and_die(self, message, vectors=None):
    add(self, message, vectors)
    calls.extend(message.texts)
    if len(calls) >= int(after):
        os.kill(os.getpid(), signal.SIGKILL)
ContentWords.add = add_and_die
engine = Engine.open(index, encoder=model, device="cpu", precision="fp32")
engine.index([films], words=True, run=partial(index_on_ray, precision="fp32"))
"""


def test_words_of_a_killed_driver_are_resumed(
    nodes: Nodes, films: Path, whole: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VIDRET_WORDS")  # the index goes on as it began
    index = tmp_path / "index"
    command = [sys.executable, "-c", SCRIPT, str(index), str(films / "long.mkv"), str(model), "2"]
    ended = subprocess.run(command, start_new_session=True, check=False, timeout=PATIENCE)
    assert ended.returncode == -signal.SIGKILL
    [(key, (is_complete, _, texts, _))] = [item for item in read_words(index).items() if " screen " in item[0]]
    assert not is_complete
    assert shown(texts) == ["lighthouse", "railwaybridge"]
    assert texts == read_words(whole)[key][2][:2]
    report = open_engine(index, model).index([films], run=on_ray(nodes))
    assert report.texts["screen"] == 3, "two of five were stored"
    assert read_words(index) == read_words(whole)
    assert read_contents(index) == read_contents(whole)
