"""Whether Decord can decode on a GPU of this machine.

Not yet run on a real GPU; ``tools/check_gpu.py`` compares its frames with those of the CPU.
"""

import logging
import subprocess
import sys
from functools import cache

from vidret.video.process import ROOT, START_TIMEOUT_S

_log = logging.getLogger(__name__)

NUM_PROCESSES = 2  # each needs a CUDA context of several hundred MB, and a card has few decoding units
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
    """Return whether Decord can use a GPU, given by its CUDA index; if not, log the reason once per process.

    A subprocess tries it, because the attempt may crash, and the CUDA context ends with the subprocess.
    """
    command = [sys.executable, "-P", "-c", _PROGRAM, ROOT, str(gpu)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=START_TIMEOUT_S, check=False)
        fault = done.stdout.decode(errors="replace") if done.returncode == 0 else f"exit status {done.returncode}"
    except subprocess.TimeoutExpired:
        fault = f"no answer for {START_TIMEOUT_S:g} s"
    if fault:
        _log.warning("Decord cannot decode on GPU %d, so the CPU decodes: %s", gpu, fault)
    return not fault
