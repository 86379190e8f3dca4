"""Whatever an index folder from elsewhere holds: nothing outside of it changes, and every failure is a sentence."""

import contextlib
import shutil
import time
from pathlib import Path

import pytest

from tests.fakes import ColourEncoder, write_film
from tests.forking import run_code
from tests.hostile_indexes import NUM_FLAT_FILES, Change, list_changes, make_own_folder
from vidret.cli.commands.info import list_damage
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.search.collections import add_watch
from vidret.serve.thumbnails import ThumbnailCache
from vidret.store.rows_file import WATCHES, Watch
from vidret.store.store import Store

MAX_S = 20.0


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two films and an index of one of them."""
    folder = tmp_path_factory.mktemp("sound")
    write_film(folder / "films" / "red.mp4", ("red", 3))
    with Engine(folder / "index", ColourEncoder()) as engine:
        engine.index([folder / "films"])
    write_film(folder / "films" / "blue.mp4", ("blue", 2))
    return folder


def search(index: Path, _films: Path) -> None:
    with Engine(index, ColourEncoder()) as engine:
        engine.search("red")
        engine.locate("red")
        engine.concepts()


def add_films(index: Path, films: Path) -> None:
    with Engine(index, ColourEncoder()) as engine:
        engine.index([films], prune=True, words=False)


def check(index: Path, _films: Path) -> None:
    with Store.open(index) as store:
        store.info()
        list(list_damage(store, index, repair=False))


def repair(index: Path, _films: Path) -> None:
    Store.repair_catalog(index)
    with Store.open(index, write=True) as store:
        list(list_damage(store, index, repair=True))


def keep_thumbnails(index: Path, _films: Path) -> None:
    Store.open(index).close()
    cache = ThumbnailCache(index / "thumbnails", 1000)
    for key_index in range(20):
        cache.put(f"{key_index:032x}", b"x" * 100)


def watch(index: Path, _films: Path) -> None:
    with Store.open(index) as store:
        add_watch(store, "red", "red")


def change_watch(index: Path, _films: Path) -> None:
    with WATCHES.change(index) as watches:
        watches[:] = [Watch(name="red", query="red", last_video=len(watches))]


def drop_vectors(index: Path, _films: Path) -> None:
    with Store.open(index, write=True) as store:
        store._vectors.index.drop()


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("name", "change"), [pytest.param(*case, id=case[0]) for case in list_changes()])
def test_a_hostile_index_changes_nothing_outside(name: str, change: Change, sound: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    for use in (search, add_films, check, repair, keep_thumbnails, watch, change_watch, drop_vectors):
        folder = tmp_path / use.__name__
        index, user_folder = folder / "elsewhere" / "index", make_own_folder(folder / "own")
        shutil.copytree(sound / "index", index)
        change(index, user_folder)
        before = read_all(user_folder)
        with contextlib.suppress(VidretError):
            use(index, sound / "films")
        assert read_all(user_folder) == before, f"{name}: {use.__name__}"
    assert time.monotonic() - started < MAX_S


# Tries files of vectors with right checksums, each of which may take at most 8 GB; prints how many were tried.
SEARCH = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
from tests.fakes import ColourEncoder
from tests.hostile_indexes import list_flat_files, put_flat, read_flat
from vidret.store.store import Store

index = Path(sys.argv[1])
query = ColourEncoder().encode_text(["red"])[0].sentence[None]
tried = 0
for content in list_flat_files((index / "vectors" / read_flat(index).name).read_bytes()):
    put_flat(index, content)
    with Store.open(index) as store:
        scores, ids = store.search(query, 1)
        assert store.features.read(ids[ids >= 0]) is not None
    tried += 1
print(tried)
"""


def test_vectors_that_were_made_to_harm_end_no_search(sound: Path, tmp_path: Path) -> None:
    done = run_code(SEARCH, shutil.copytree(sound / "index", tmp_path / "index"))
    assert (done.returncode, done.stdout) == (0, f"{NUM_FLAT_FILES}\n"), done.stderr
