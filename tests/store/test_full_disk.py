"""On a full disk, an intact index is read, searched and found intact: reading needs no space."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.indexed_texts import add_words
from tests.store.samples import add_video, create, environment

if sys.platform == "win32":
    pytest.skip("Windows has no limit on the size of files", allow_module_level=True)

# No file can be written, not even the one of shared memory that SQLite makes beside a database.
READ = """
import resource, signal, sys
import numpy as np

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.store.texts.upkeep import count_texts, find_damaged_texts

with Store.open(sys.argv[1]) as store:
    assert len(store) == 4
    assert (store.search(np.ones((1, store.dim), np.float32), 4)[1] >= 0).all()
    assert not store.upkeep.verify() and not store.upkeep.verify_vectors()
with TextStore.open(sys.argv[1]) as texts:
    assert not texts.index.in_memory
    assert texts.index.find_phrase("red apple", 5).size == 1
assert count_texts(sys.argv[1])[0].texts == 2
assert find_damaged_texts(sys.argv[1], repair=False) == []
print("read")
"""


@pytest.mark.parametrize("is_copy", [False, True], ids=["", "copy without the files of a connection"])
def test_an_intact_index_is_read_on_a_full_disk(tmp_path: Path, is_copy: bool) -> None:
    index = tmp_path / "index"
    with create(index) as store:
        add_video(store, "a", seed=0)
        store.upkeep.save_vectors()
    add_words(index, "a", ["one red apple", "two green pears"])
    for path in [*index.rglob("*-wal"), *index.rglob("*-shm")] if is_copy else []:
        path.unlink()
    done = subprocess.run(
        [sys.executable, "-c", READ, str(index)], capture_output=True, text=True, check=False, env=environment()
    )
    assert (done.stdout, done.stderr) == ("read\n", "")
