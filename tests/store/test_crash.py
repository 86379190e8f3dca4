"""kill -9 at any instant: the next run goes on, and ends with what an uninterrupted run makes."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from vidret.store import Store

from . import samples

NUM_VIDEOS = 60
ROUNDS = 6


def content(store: Store) -> list[tuple[str, int, bytes, bytes]]:
    """List every searchable segment with its vectors, found by searching, so that nothing can be there twice."""
    _, ids = store.search(np.zeros((1, samples.DIM), np.float32), 10 * NUM_VIDEOS)
    found = [int(key) for key in ids[0] if key >= 0]
    rows = zip(store.segments(found), store.frames(found), strict=True)
    return sorted((store.video(s.video).fingerprint, s.number, f.tobytes(), t.tobytes()) for s, (f, t) in rows)


def test_killed_writer_is_continued(tmp_path: Path) -> None:
    rng = random.Random(0)
    killed = 0
    for _ in range(ROUNDS):
        command = [sys.executable, samples.__file__, str(tmp_path / "killed"), str(NUM_VIDEOS)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=samples.environment()) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0, 0.05))
            writer.send_signal(signal.SIGKILL)
        killed += writer.returncode == -signal.SIGKILL
        with Store.open(tmp_path / "killed") as reader:
            assert len(content(reader)) == len(reader)
            assert reader.verify() == []
    assert killed > 0
    with samples.create(tmp_path / "killed") as store:
        assert store.verify() == []
        samples.index_all(store, NUM_VIDEOS)
        with samples.create(tmp_path / "whole") as whole:
            samples.index_all(whole, NUM_VIDEOS)
            assert content(store) == content(whole)
            assert len(store) == len(whole) == NUM_VIDEOS * samples.NUM_SEGMENTS


FORKING_WRITER = """
import os, signal, sys
from vidret.store import Store
store = Store.create(sys.argv[1], encoder_name="tower", encoder_fingerprint="tower-1", dim=8)
if os.fork() == 0:
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)
signal.pause()
"""


def test_child_of_a_killed_writer_does_not_keep_the_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKING_WRITER, str(tmp_path)]
    pipe, env = subprocess.PIPE, samples.environment()
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        writer.kill()
        writer.wait()
        samples.create(tmp_path).close()
