"""Texts in Milvus: the same answers as with FAISS and SQLite, whatever changes in both catalogs."""

import ast
import itertools
import random
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from tests.forking import start_code
from vidret.channels.base import Clause
from vidret.channels.texts.matching import TextMatcher
from vidret.errors import StoreError
from vidret.store.folder import CATALOG
from vidret.store.store import Store
from vidret.store.texts.store import FOLDER, TextStore
from vidret.store.vectors.milvus import MilvusVectors
from vidret.types import ALL_VIDEOS, SOURCES, TEXT_SOURCES, Filters, Source

from ...indexed_texts import DIM, add_words, create_words, make_texts, random_vectors
from ..samples import add_video, create

pytestmark = pytest.mark.scale
MILVUS = "milvus://"
WORDS = ["dog", "beach", "café", "running", "駅", "file", "name", "zebra", "crossing", "the", "goal", "keeper", "swims"]
FOLDERS = ["/a", "/a/b", "/a/b c", "/a0", '/a/"q"', "/Ä/ö"]


class Index:
    """An index with texts, open for writing and for reading."""

    def __init__(self, folder: Path, vectors: str, stack: ExitStack) -> None:
        self.pictures = stack.enter_context(create(folder, vectors=vectors))
        self.texts = stack.enter_context(create_words(folder))
        self.reader = stack.enter_context(TextStore.open(folder))

    def answer(
        self, filters: Filters, excluded: frozenset[int], sources: tuple[Source, ...], text: str
    ) -> tuple[list[list[int]], list[int], list[tuple[int, float, float]]]:
        """Return the nearest texts, those that share a word, and those that match a clause, with their scores."""
        within = self.reader.select(self.pictures, self.pictures.select(filters, excluded), sources)
        query = random_vectors(make_texts([text, "another"]))
        stems = self.reader.index.stems([text])[0]
        clause = Clause(text=text, content=text)
        typical, matcher = np.zeros(DIM, np.float32), TextMatcher(self.reader)
        matches = matcher.find([clause], query[:1], within, typical=typical, num_texts=[len(self.reader)])[0]
        ids = [found.id for found in matches.texts]
        return (
            [near.tolist() for near in self.reader.search(query, 7, within)],
            sorted(self.reader.search_words(stems, 500, within).tolist()),
            list(zip(ids, matches.cosines.tolist(), matches.information.tolist(), strict=True)),
        )


def vectors_of(texts: TextStore) -> MilvusVectors:
    assert isinstance(texts.store._vectors.index, MilvusVectors)
    return texts.store._vectors.index


@pytest.fixture
def indexes(tmp_path: Path) -> Iterator[tuple[Index, Index]]:
    with ExitStack() as stack:
        yield Index(tmp_path / "faiss", "faiss", stack), Index(tmp_path / "milvus", MILVUS, stack)


def change(index: Index, rng: random.Random) -> None:
    """Change a video, a path or a track; the same generator makes the same change. No two texts are equal."""
    pictures, texts = index.pictures, index.texts
    name, path = f"v{rng.randrange(12)}", f"{rng.choice(FOLDERS)}/{rng.randrange(8)}.mp4"
    action = rng.choice(["video", "move", "copy", "gone", "touch", "track", "track", "grow", "remove", "prune"])
    source, words = (
        rng.choice(TEXT_SOURCES),
        [" ".join([*rng.choices(WORDS, k=rng.randrange(1, 6)), str(rng.random())]) for _ in range(4)],
    )
    state, mtime_ns = (
        rng.choice(["done", "missing", "failed", "pending"]),
        rng.choice([None, rng.randrange(50) * 10**9]),
    )
    video = pictures.videos.find_complete(name)
    if action == "video":
        add_video(pictures, name, seed=int(name[1:]), path=path, num_segments=rng.randrange(1, 5))
    elif action in ("move", "copy", "gone", "touch") and video is not None:
        paths = [record.path for record in pictures.files.find() if record.video == video]
        for indexed_path in paths[:1] if action in ("move", "gone", "touch") else ():
            pictures.writer.set_file(indexed_path, state=state if action == "touch" else "missing", mtime_ns=mtime_ns)  # type: ignore[arg-type]
        if action in ("move", "copy"):
            pictures.writer.set_file(path, state="done", video=video, mtime_ns=mtime_ns)
    elif action in ("track", "grow"):
        model = f"model {rng.randrange(2)}"
        if (old := texts.find(name, source, model)) is not None and old.complete:
            texts.restart(old)
        track = texts.begin(name, source, model, duration_s=60.0)
        track_texts = make_texts(words, source)
        texts.add(track, track_texts, random_vectors(track_texts), until_s=8.0)
        if action == "track":
            texts.finish(track)
    elif action == "remove":
        texts.remove(texts.tracks(name)[:1])
    elif action == "prune":
        pictures.upkeep.prune()


def draw_filters(rng: random.Random) -> Filters:
    days, seconds = [None, None, *range(0, 50, 10)], [None, None, 10, 25, 40]
    bounds = rng.choice(seconds), rng.choice(seconds), rng.choice(days), rng.choice(days)
    folder, name = rng.choice([None, *FOLDERS, "/", "/a/1.mp4"]), rng.choice([None, None, "1.MP4"])
    return rng.choice([ALL_VIDEOS, Filters(folder, name, *bounds)])


@pytest.mark.parametrize("seed", range(3))
def test_answers_are_those_of_faiss_after_any_changes(indexes: tuple[Index, Index], seed: int) -> None:
    """If everything is pushed, Milvus itself leaves out what a query may not find, before it takes the best."""
    for round_index in range(6):
        for step in range(15):
            for index in indexes:
                change(index, random.Random(f"{seed} {round_index} {step}"))
        pushed = bool(round_index % 2)
        if pushed:
            for index in indexes:
                index.texts.save()
        rng = random.Random(f"{seed} {round_index}")
        for _ in range(25):
            filters, excluded = draw_filters(rng), frozenset(rng.sample(range(1, 13), rng.choice([0, 0, 2])))
            sources = rng.choice([SOURCES, ("speech",), ("picture", "screen", "generated"), ("subtitles",)])
            text = " ".join(rng.choices([*WORDS, "beech", "filename"], k=2))
            one, other = (index.answer(filters, excluded, sources, text) for index in indexes)
            assert one == other
            if pushed:
                milvus = indexes[1]
                within = milvus.texts.select(milvus.pictures, milvus.pictures.select(filters, excluded), sources)
                vectors = vectors_of(milvus.texts)
                expression = vectors._make_expression(within, vectors._read_pushed())
                assert vectors._open().count(expression) == within.num_segments


def fill(folder: Path, vectors: str, num_videos: int = 3) -> None:
    with create(folder, vectors=vectors) as store:
        for video_index in range(num_videos):
            add_video(store, f"v{video_index}", seed=video_index, path=f"/films/{video_index}.mp4")
        store.upkeep.save_vectors()
    for video_index in range(num_videos):
        add_words(folder, f"v{video_index}", [f"a dog number {video_index}", "a cat"])


def search(folder: Path, filters: Filters = ALL_VIDEOS) -> tuple[list[int], list[int]]:
    """Return the nearest texts and those with a word."""
    with Store.open(folder) as store, TextStore.open(folder) as texts:
        within = texts.select(store, store.select(filters))
        nearest = texts.search(random_vectors(make_texts(["a dog number 1"])), 10, within)[0]
        return nearest.tolist(), sorted(texts.search_words(["dog"], 10, within).tolist())


def test_texts_are_where_the_pictures_are_without_a_local_copy(tmp_path: Path) -> None:
    fill(tmp_path, MILVUS)
    with TextStore.open(tmp_path) as texts:
        assert texts.store.home == MILVUS
        assert vectors_of(texts)._open().count("") == 6
    assert not (tmp_path / FOLDER / "vectors").exists()
    nearest, words = search(tmp_path, Filters(folder="/films/1.mp4"))
    assert (nearest, words) == ([3, 4], [3])


def test_full_text_is_searched_by_milvus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, MILVUS)
    monkeypatch.setattr("vidret.store.texts.index.TextIndex.search", None)
    assert search(tmp_path)[1] == [1, 3, 5]


def test_the_best_texts_hold_rare_words(tmp_path: Path) -> None:
    fill(tmp_path, MILVUS, num_videos=1)
    add_words(tmp_path, "v0", [*(f"a dog at number {n}" for n in range(40)), "a dog, a zebra"], source="screen")
    with TextStore.open(tmp_path) as texts:
        best = texts.search_words(["dog", "zebra"], 1)
        assert [stored.text.text for stored in texts.read_segments(best)] == ["a dog, a zebra"]
        assert len(texts.search_words(["dog", "zebra"], 10)) == 10


def test_a_word_that_is_said_often_in_one_video_hides_no_other(tmp_path: Path) -> None:
    fill(tmp_path, MILVUS, num_videos=3)
    words = [*(f"a zebra {n}" for n in range(30)), *(f"boat {n}" for n in range(60))]
    add_words(tmp_path, "v0", words, source="screen")
    for video in ("v1", "v2"):
        add_words(tmp_path, video, ["then they spoke at length about a zebra in the zoo"], source="screen")
    with TextStore.open(tmp_path) as texts:
        best = texts.read_segments(texts.search_words(["zebra"], 5))
        assert {stored.fingerprint for stored in best} == {"v0", "v1", "v2"}


def test_without_bm25_in_milvus_full_text_is_searched_by_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vidret.store.vectors.milvus_collection.ANALYZERS", ("unknown",))
    fill(tmp_path, MILVUS)
    assert [message.count("words are searched by SQLite, since Milvus has no bm25") for message in caplog.messages] == [
        1
    ]
    with TextStore.open(tmp_path) as texts:
        assert not vectors_of(texts)._open().has_words
    assert search(tmp_path) == ([3, 1, 5, *search(tmp_path)[0][3:]], [1, 3, 5])


def test_changed_and_lost_paths_of_videos_need_no_push_of_their_texts(tmp_path: Path) -> None:
    fill(tmp_path, MILVUS)
    expected = search(tmp_path)
    with Store.open(tmp_path, write=True) as store:
        store.writer.set_file("/films/1.mp4", state="missing")
        store.writer.set_file("/other/1.mp4", state="done", video=2)
    assert search(tmp_path, Filters(folder="/other")) == ([3, 4], [3])
    with closing(sqlite3.connect(tmp_path / CATALOG)) as database, database:
        database.execute("UPDATE files SET checksum = 0 WHERE path = CAST('/films/2.mp4' AS BLOB)")
    assert Store.repair_catalog(tmp_path)
    assert search(tmp_path)[1] == [1, 3]
    with Store.open(tmp_path, write=True) as store:
        add_video(store, "v2", seed=2, path="/films/2.mp4")
    assert search(tmp_path) == expected


def test_texts_use_a_server_only_if_the_index_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    fill(tmp_path / "index", f"{MILVUS}{tmp_path}/own.db")
    assert search(tmp_path / "index")[1] == [1, 3, 5]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of another user"))
    with pytest.raises(StoreError, match="which is not part of it"):
        search(tmp_path / "index")


READER = """
import sys, time
from pathlib import Path
from tests.store.texts.test_milvus import search
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20):
    print(search(Path(sys.argv[1])), flush=True)
"""


def test_several_processes_answer_from_one_server_while_a_run_writes(tmp_path: Path, server: str) -> None:
    index = tmp_path / "index"
    fill(index, server)
    expected = search(index)
    with start_code(READER, index) as (one, *_), start_code(READER, index) as (other, *_):
        for reader in (one, other):
            assert reader.stdin is not None
            print(file=reader.stdin, flush=True)
        add_words(index, "v0", ["a bird"] * 3, source="screen")  # of a content with other texts
        for reader in (one, other):
            lines = [ast.literal_eval(line) for line in reader.communicate()[0].splitlines()]
            assert [words for _, words in lines] == [expected[1]] * 20
            assert {tuple(key for key in nearest if key <= 6) for nearest, _ in lines} == {tuple(expected[0])}
            assert reader.returncode == 0
    assert not [*index.glob("vectors*"), *(index / FOLDER).glob("vectors*")]


def test_texts_move_to_milvus_and_back(tmp_path: Path) -> None:
    index, address = tmp_path / "index", f"{MILVUS}{tmp_path}/all.db"
    fill(index, "faiss")
    expected = search(index)
    for source, target in itertools.pairwise(("faiss", address, MILVUS, "faiss")):
        for _ in range(2):
            with Store.open(index, write=True) as store, TextStore.open(index, write=True) as texts:
                store.upkeep.move_vectors(source, target)
                texts.store.upkeep.move_vectors(None, target)
                assert texts.store.home == target
            assert search(index) == expected
    with closing(sqlite3.connect(index / FOLDER / CATALOG)) as database:
        assert database.execute("SELECT count(*) FROM meta WHERE key LIKE 'milvus.%'").fetchone() == (0,)
