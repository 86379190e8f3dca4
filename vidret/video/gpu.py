"""Decoding on a GPU: whether Decord can here.

No GPU has run it yet; ``tools/check_gpu.py`` compares it with the CPU.
"""

import logging
import subprocess
import sys
from functools import cache

from vidret.video.process import ROOT, START_SECONDS

_log = logging.getLogger(__name__)

NUM_PROCESSES = 2  # each holds a CUDA context of several hundred MB, and a card has few decoding units
_PROGRAM = """
import os, sys
if sys.argv[1] not in sys.path: sys.path.insert(0, sys.argv[1])
out = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # native code prints, too
from vidret.video.decode import try_gpu
os.write(out, try_gpu(int(sys.argv[2])).encode())
"""


@cache
def can_decode_on(gpu: int) -> bool:
    """Return whether Decord can use a GPU, by the number CUDA gives it; where not, say why, once a process.

    A process of its own finds out: it may crash, and its CUDA context ends with it.
    """
    command = [sys.executable, "-P", "-c", _PROGRAM, ROOT, str(gpu)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=START_SECONDS, check=False)
        fault = done.stdout.decode(errors="replace") if done.returncode == 0 else f"it ended with {done.returncode}"
    except subprocess.TimeoutExpired:
        fault = f"no answer for {START_SECONDS:g} s"
    if fault:
        _log.warning("Decord cannot decode on GPU %d, so the CPU decodes: %s", gpu, fault)
    return not fault
