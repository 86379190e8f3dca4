"""Which decoders can use a GPU of this machine.

Not yet run on a real GPU; ``tools/check_gpu.py`` compares their frames with those of the CPU.
"""

import json
import logging
import subprocess
import sys
from functools import cache

from vidret.devices import CPU, cuda_index
from vidret.video.decode import GPU_DECODERS, TITLES, Decoder
from vidret.video.process import ROOT, START_TIMEOUT_S
from vidret.video.torchcodec_decoder import is_torchcodec_installed

_log = logging.getLogger(__name__)

NUM_PROCESSES = 2  # each needs a CUDA context of several hundred MB, and a card has few decoding units
_PROGRAM = """
import json, os, sys
if sys.argv[1] not in sys.path: sys.path.insert(0, sys.argv[1])
out = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # native code prints, too
from vidret.video.decode import try_gpu
os.write(out, json.dumps(try_gpu(int(sys.argv[2]), sys.argv[3])).encode())
"""


@cache
def find_gpu_decoders(device: str, decoder: Decoder) -> list[str]:
    """Return the decoders that can use a device, of those that may be used; if none can, log the reason once.

    ``auto`` may use Decord, and torchcodec where it is installed. It says nothing of devices other than NVIDIA's, where
    the CPU always decodes.
    """
    gpu, wanted = cuda_index(device), [each for each in GPU_DECODERS if decoder in ("auto", each)]
    if device == CPU or not wanted:
        return []
    if gpu is None:
        if decoder != "auto":
            _log.warning("%s can use NVIDIA GPUs alone, so the CPU decodes for %s", TITLES[decoder], device)
        return []
    if decoder == "auto" and not is_torchcodec_installed():
        wanted.remove("torchcodec")
    faults = {each: _try_apart(gpu, each) for each in wanted}
    found = [each for each, fault in faults.items() if not fault]
    if not found:
        for each, fault in faults.items():
            _log.warning("%s cannot decode on GPU %d, so the CPU decodes: %s", TITLES[each], gpu, fault)
    return found


def _try_apart(gpu: int, decoder: str) -> str:
    """Return why a decoder cannot use a GPU, given by its CUDA index; empty if it can.

    A subprocess tries it, because the attempt may crash, and the CUDA context ends with the subprocess.
    """
    command = [sys.executable, "-P", "-c", _PROGRAM, ROOT, str(gpu), decoder]
    try:
        done = subprocess.run(command, capture_output=True, timeout=START_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer for {START_TIMEOUT_S:g} s"
    return str(json.loads(done.stdout)) if done.returncode == 0 else f"exit status {done.returncode}"
