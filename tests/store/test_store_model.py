"""A store against a dict: any sequence of changes, each of which may be killed at any of its commits and repeated."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.store import samples
from vidret.index.merging import merge_indexes
from vidret.store.catalog.database import Database
from vidret.store.store import Store

NUM_SEGMENTS = 2
PATHS = st.sampled_from(["/a.mp4", "/b.mp4", "/c.mp4"])
CONTENTS = st.integers(0, 3)
# After how many commits a change is killed, if it has that many, and whether before the commit or after it.
KILLS = st.none() | st.tuples(st.integers(1, 7), st.booleans())
Kill = tuple[int, bool] | None


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of vidret may catch it."""


@contextmanager
def kill_at(commit: int, folder: Path, copy: Path, *, is_before: bool) -> Iterator[None]:
    """Raise at a commit of an index, once its files, as a kill would leave them, are copied."""
    transaction, count = Database.transaction, 0

    @contextmanager
    def counted(database: Database, *, durable: bool = False) -> Iterator[None]:
        nonlocal count
        count += database.path.parent == folder

        def copy_at(moment: bool) -> None:
            if count == commit and is_before == moment and database.path.parent == folder:
                shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*-shm", "writer.lock"))
                raise KilledError

        with transaction(database, durable=durable):
            yield
            copy_at(True)
        copy_at(False)

    Database.transaction = counted  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Database.transaction = transaction  # type: ignore[method-assign]


class StoreMachine(RuleBasedStateMachine):
    """``files`` holds the state and content of each path, ``stored`` the contents that the index has."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.files: dict[str, tuple[str, int]] = {}
        self.stored: set[int] = set()
        self.num_folders = self.clock = 0

    @initialize()
    def create(self) -> None:
        self.store = samples.create(self.root / "0")
        self.reader = Store.open(self.root / "0")

    def teardown(self) -> None:
        self.store.close()
        self.reader.close()
        shutil.rmtree(self.root)

    def change(self, act: Callable[[], object], kill: Kill, touched: set[str]) -> None:
        """Act; if that is killed, check that all other paths are as they were, and act again on what is left."""
        if kill is not None:
            folder, copy = self.store.path, self.root / f"{self.num_folders + 1}"
            try:
                with kill_at(kill[0], folder, copy, is_before=kill[1]):
                    act()
            except KilledError:
                self.reopen(copy)
                assert self.store.upkeep.verify() == []
                others = {path: held for path, held in self.files.items() if path not in touched}
                assert {path: held for path, held in self.read_files().items() if path in others} == others
                live = {content for state, content in others.values() if state == "done"}
                assert {100 * content + n for content in live for n in range(NUM_SEGMENTS)} <= set(
                    samples.seeds(self.store)
                )
            else:
                return
        act()

    def reopen(self, folder: Path) -> None:
        self.num_folders += 1
        self.store.close()
        self.reader.close()
        self.store, self.reader = samples.create(folder), Store.open(folder)

    def read_files(self) -> dict[str, tuple[str, int]]:
        names = self.store.videos.fingerprints()
        return {
            record.path: (record.state, int(names[record.video].lstrip("v")))
            for record in self.store.files.find()
            if record.video is not None
        }

    @rule(path=PATHS, content=CONTENTS, kill=KILLS)
    def add_or_replace(self, path: str, content: int, kill: Kill) -> None:
        self.change(lambda: add(self.store, path, content), kill, {path})
        self.files[path] = ("done", content)
        self.stored.add(content)

    @precondition(lambda self: self.files)
    @rule(data=st.data(), path=PATHS, kill=KILLS)
    def move(self, data: st.DataObject, path: str, kill: Kill) -> None:
        old = data.draw(st.sampled_from(sorted(self.files)))
        content = self.files[old][1]

        def act() -> None:
            self.store.writer.set_file(old, state="missing", reason="the file is gone")
            self.store.writer.set_file(path, state="done", video=self.store.videos.find_complete(f"v{content}"))

        self.change(act, kill, {old, path})
        self.files[old] = ("missing", content)
        self.files[path] = ("done", content)

    @precondition(lambda self: self.files)
    @rule(data=st.data(), kill=KILLS)
    def delete(self, data: st.DataObject, kill: Kill) -> None:
        path = data.draw(st.sampled_from(sorted(self.files)))
        self.change(lambda: self.store.writer.set_file(path, state="missing"), kill, {path})
        self.files[path] = ("missing", self.files[path][1])

    @rule(kill=KILLS)
    def prune(self, kill: Kill) -> None:
        self.change(self.prune_all, kill, {path for path, (state, _) in self.files.items() if state == "missing"})
        self.files = {path: held for path, held in self.files.items() if held[0] == "done"}
        self.stored = {content for _, content in self.files.values()}

    def prune_all(self) -> None:
        self.store.upkeep.prune()

    @rule(other=st.dictionaries(PATHS, CONTENTS, min_size=1, max_size=2), kill=KILLS)
    def merge(self, other: dict[str, int], kill: Kill) -> None:
        """Merge an index that has seen these files later."""
        self.clock += 1
        source = self.root / f"source-{self.clock}"
        with samples.create(source) as made:
            for path, content in other.items():
                add(made, path, content, mtime_ns=self.clock)

        def act() -> None:
            self.store.close()
            merge_indexes([source], self.store.path)
            self.store = samples.create(self.store.path)

        self.change(act, kill, set(other))
        self.files |= {path: ("done", content) for path, content in other.items()}
        self.stored |= set(other.values())

    @rule()
    def save(self) -> None:
        self.store.upkeep.save_vectors()

    @rule()
    def close_and_open(self) -> None:
        self.reopen(self.store.path)

    @invariant()
    def holds_what_the_dict_holds(self) -> None:
        live = sorted({content for state, content in self.files.values() if state == "done"})
        assert self.read_files() == self.files
        assert sorted(self.store.videos.fingerprints().values()) == [f"v{content}" for content in sorted(self.stored)]
        for store in (self.store, self.reader):
            assert samples.seeds(store) == [100 * content + n for content in live for n in range(NUM_SEGMENTS)]
            owners = {video.id: video.paths for video in store.videos.find()}
            names = store.videos.fingerprints()
            for video, paths in owners.items():
                content = int(names[video].lstrip("v"))
                assert list(paths) == sorted(path for path, held in self.files.items() if held == ("done", content))
                ids = store.segments.ids_of_video(video)
                changes = [tuple(samples.shots(100 * content + n, 10.0 * n)) for n in range(len(ids))]
                assert store.shots.of_segments(ids) == changes
                for segment_index, (frames, _) in enumerate(store.features.read_frames(ids)):
                    expected = samples.embedding(100 * content + segment_index).frames.astype(np.float16)
                    np.testing.assert_array_equal(frames, expected)
        assert self.store.upkeep.verify() == []


def add(store: Store, path: str, content: int, *, mtime_ns: int = 0) -> None:
    """Index a file as an engine would."""
    samples.add_video(store, f"v{content}", seed=content, path=path, num_segments=NUM_SEGMENTS)
    store.writer.set_file(path, state="done", mtime_ns=mtime_ns)


StoreMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=10)
test_store_agrees_with_a_dict = StoreMachine.TestCase
