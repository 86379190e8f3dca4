"""How deep a search goes: as deep as its videos lie, and never further."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidret.search.calibration import Calibration, measure_calibration
from vidret.search.locating import Locator
from vidret.search.queries import Wanted
from vidret.search.ranking import FrameRanker
from vidret.search.searcher import CANDIDATES, PER_VIDEO, Search, Searcher
from vidret.store import NewSegment, Store
from vidret.types import Filters, SegmentEmbedding, TextEmbedding

DIM = 16
QUERY = np.eye(1, DIM, dtype=np.float32)[0]


class Axes:
    """An encoder of one query, the first axis, and of others far from everything."""

    name = fingerprint = "axes"
    dim = DIM

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        return [TextEmbedding(text, -QUERY, -QUERY[None]) for text in texts]


def write_index(folder: Path, nearness: Sequence[float], num_segments: int) -> None:
    """Store videos whose segments are all about so near to the query."""
    rng = np.random.default_rng(0)
    with Store.create(folder / "index", encoder_name="axes", encoder_fingerprint="axes", dim=DIM) as store:
        for number, near in enumerate(nearness):
            vectors = 0.01 * rng.standard_normal((num_segments, DIM)).astype(np.float32)
            vectors[:, 0] += near
            vectors[:, 1] += np.sqrt(1 - near**2)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            path = folder / str(number % 2) / f"{number}.mp4"
            path.parent.mkdir(exist_ok=True)
            path.touch()
            video = store.begin_video(f"v{number}", duration=num_segments, facts={}, num_segments=num_segments)
            store.set_file(str(path), state="done", video=video)
            embeddings = [SegmentEmbedding(vector, vector[None], np.array([0.5])) for vector in vectors]
            store.add_segments([NewSegment(video, n, n, n + 1.0, each) for n, each in enumerate(embeddings)])
            store.finish_video(video)


class Asking:
    """A searcher that counts what it reads, and what it asks of the coarse search."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = Store.open(folder / "index")
        self.searcher = Searcher(self.store, Axes(), FrameRanker(), tokens="int8")  # type: ignore[arg-type]
        self.searcher.baselines.scores(self.store, FrameRanker())
        self.read: list[int] = []
        self.asked: list[int] = []
        read, search = self.store.read, self.store.search

        def read_segments(ids: Any, *, tokens: bool) -> Any:
            self.read.append(len(ids))
            return read(ids, tokens=tokens)

        def ask(queries: Any, k: int, filters: Filters) -> Any:
            self.asked.append(k)
            return search(queries, k, filters)

        monkeypatch.setattr(self.store, "read", read_segments)
        monkeypatch.setattr(self.store, "search", ask)

    def __call__(self, k: int, filters: Filters | None = None, candidates: int = CANDIDATES) -> list[int]:
        """Return the videos found, as they were numbered."""
        wanted = Wanted(TextEmbedding("it", QUERY, QUERY[None]))
        search = Search(wanted, k, FrameRanker(), candidates, filters or Filters())
        return [int(Path(hit.path).stem) for hit in self.searcher.search([search])[0]]


@pytest.fixture
def films(tmp_path: Path) -> Path:
    write_index(tmp_path, (0.9, 0.7, 0.5, 0.3), num_segments=400)
    return tmp_path


@pytest.fixture
def ask(films: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    asking = Asking(films, monkeypatch)
    yield asking
    asking.store.close()


def test_a_search_for_more_videos_than_there_are_stops_when_it_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_index(tmp_path, [0.5] * 4, num_segments=400)
    ask = Asking(tmp_path, monkeypatch)
    assert sorted(ask(50)) == [0, 1, 2, 3]
    assert (ask.asked, ask.read) == ([CANDIDATES], [CANDIDATES])
    ask.store.close()


def test_a_filter_says_how_many_videos_there_are(ask: Asking) -> None:
    assert ask(50, Filters(folder=str(Path(ask.store.path).parent / "0"))) == [0, 2]
    assert sum(ask.asked) <= CANDIDATES * (1 + 4)
    assert ask.asked[-1] <= 4 * CANDIDATES


def test_videos_behind_many_segments_of_others_cost_a_few_segments_each(ask: Asking) -> None:
    assert ask(1) == [0]
    assert ask.read == [CANDIDATES]
    ask.read.clear()
    assert ask(4) == [0, 1, 2, 3]
    assert ask.read[-1] == CANDIDATES + 3 * PER_VIDEO
    assert ask(4, candidates=2000) == [0, 1, 2, 3]
    assert ask.read[-1] == 1600, "what is asked for is read whole"


def test_scores_do_not_depend_on_how_many_videos_are_wanted(ask: Asking) -> None:
    wanted = Wanted(TextEmbedding("it", QUERY, QUERY[None]))
    few, many = (ask.searcher.search([Search(wanted, k, FrameRanker())])[0] for k in (1, 4))
    assert (few[0].score, few[0].segment) == (many[0].score, many[0].segment)


def test_a_missing_file_is_no_reason_to_read_everything(ask: Asking) -> None:
    (Path(ask.store.path).parent / "0" / "0.mp4").unlink()
    assert ask(4) == [1, 2, 3]
    assert max(ask.read) == CANDIDATES + 3 * PER_VIDEO


def test_no_more_is_asked_than_the_vectors_give(
    ask: Asking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(type(ask.store), "max_k", 900)
    with caplog.at_level(logging.WARNING):
        assert ask(4) == [0, 1, 2]
    assert ask.asked == [200, 800, 900]
    assert "only 3 videos are among the 900 nearest segments" in caplog.text
    assert "k = 4" in caplog.text


def damage_frames(store: Store, ids: Sequence[int]) -> None:
    """Flip a bit in the frame vectors of segments; each has one frame."""
    path = Path(store.path) / "features" / "frames.f16"
    data = bytearray(path.read_bytes())
    for key in ids:
        data[(key - 1) * DIM * 2] ^= 1
    path.write_bytes(data)


def test_damaged_segments_are_left_out_and_said_once(ask: Asking, caplog: pytest.LogCaptureFixture) -> None:
    whole = ask.searcher.search([Search(Wanted(TextEmbedding("it", QUERY, QUERY[None])), 4, FrameRanker())])[0]
    best = ask.store.video_segments(1)[whole[0].segment.number]
    damage_frames(ask.store, [best, *ask.store.video_segments(2)])
    for _ in range(2):
        assert ask(4) == [0, 2, 3]
    told = [message for message in caplog.messages if message.startswith(f"segment {best} is left out: ")]
    assert len(told) == 1
    assert "frames.f16: rows from " in told[0]
    assert "vidret info --repair" in told[0]
    assert len(caplog.messages) == len(set(caplog.messages))


def test_what_cannot_be_read_counts_for_nothing_elsewhere(ask: Asking) -> None:
    searcher, store, texts = ask.searcher, ask.store, [TextEmbedding("it", QUERY, QUERY[None])]
    before = searcher.score_videos(texts, [1, 2, 3], FrameRanker())["total"]
    calibrated = measure(searcher)
    damage_frames(store, [*store.video_segments(1)[:7], *store.video_segments(2)])
    after = searcher.score_videos(texts, [1, 2, 3], FrameRanker())["total"]
    assert after[0, 1] == -np.inf
    assert after[0, 2] == before[0, 2]
    curve = Locator(searcher, None).curve(Wanted(texts[0]), 1)
    assert curve is not None
    assert (curve.start, len(curve.scores)) == (7.0, 393)
    assert Locator(searcher, None).curve(Wanted(texts[0]), 2) is None
    again = measure(searcher)
    assert again.ids.tolist() == [key for key in calibrated.ids.tolist() if key > 7 and not 400 < key <= 800]
    assert np.isfinite(again.potentials["frames"]).all()
    damage_frames(store, [*store.video_segments(1)[7:], *store.video_segments(3), *store.video_segments(4)])
    assert Searcher(store, Axes(), FrameRanker(), tokens="int8").baselines.scores(store, FrameRanker()) == []  # type: ignore[arg-type]


def measure(searcher: Searcher) -> Calibration:
    texts = [TextEmbedding(str(axis), row, row[None]) for axis, row in enumerate(np.eye(3, DIM, dtype=np.float32))]
    read = partial(searcher.score, FrameRanker(), texts)
    return measure_calibration(searcher.store, FrameRanker(), texts, bank="axes", read=read)


def test_a_search_during_a_prune_finds_what_is_left(ask: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prune of another process comes after the candidates were chosen, and before they are read."""
    folder, search = Path(ask.store.path), ask.store.search

    def prune_after(*given: Any) -> Any:
        found = search(*given)
        with Store.open(folder, write=True) as owner:
            gone = owner.videos()[0].paths[0]
            owner.set_file(gone, state="missing")
            owner.prune()
        return found

    monkeypatch.setattr(ask.store, "search", prune_after)
    assert ask(1) == [1], "0, that held all candidates, is pruned after the first look, and 2 after the next"
    monkeypatch.setattr(ask.store, "search", search)
    assert ask(4) == [1, 3]
    assert Locator(ask.searcher, None).curve(Wanted(TextEmbedding("it", QUERY, QUERY[None])), 1) is None
