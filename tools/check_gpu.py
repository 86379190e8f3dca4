"""Run every path that uses a GPU, there and on the CPU, and print whether they agree; exit with 1 if one does not.

    python tools/check_gpu.py [VIDEOS] [--device auto] [--max-videos 8] [--only TEXT] [--tiny] [--page check_gpu.md]

VIDEOS is a folder of real videos, which are decoded and indexed beside made ones. Each path runs in a process of its
own: one that crashes costs its own row. ``difference`` is in the unit of the path (see ``gpu_paths.py``): grey levels
for decoding, 1 - cosine for encoding and indexing, the share of other results for FAISS, relative for gradients. A
path whose library is missing, such as Decord or FAISS without GPU code, is listed as not run. With ``--device cpu``
every path is compared with itself. Ten minutes are enough. ``--page`` is one page with the machine, the versions and
the numbers of each path, to send back; it names no file and no user.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 600.0
OK, DIFFERS, FAILED, NOT_RUN = "same", "DIFFERS", "FAILED", "not run"


@dataclass(frozen=True, slots=True)
class Row:
    """A path's line of the table; numbers are None where it did not come so far."""

    path: str
    verdict: str
    reason: str = ""
    cpu_s: float | None = None
    device_s: float | None = None
    difference: float | None = None
    tolerance: float | None = None


def list_paths() -> dict[str, Callable[[Any], Any]]:
    """Return the paths by name."""
    from gpu_paths import PATHS

    return PATHS


def run_path(name: str, device: str, scratch: Path, videos: Sequence[str], *, tiny: bool) -> Row:
    """Run one path in this process."""
    import torch
    from gpu_paths import NotHereError, Setup

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # else float32 is not compared
    try:
        outcome = list_paths()[name](Setup(device, scratch, videos, tiny))
    except NotHereError as error:
        return Row(name, NOT_RUN, str(error))
    except Exception as error:
        return Row(name, FAILED, (f"{type(error).__name__}: {error}".splitlines())[0])
    numbers = {"cpu_s": outcome.cpu_s, "device_s": outcome.device_s}
    numbers |= {"difference": outcome.difference, "tolerance": outcome.tolerance}
    return Row(name, OK if outcome.is_same else DIFFERS, outcome.note, **numbers)


def run_apart(name: str, command: Sequence[str], limit_s: float = LIMIT_S) -> Row:
    """Run a command that prints a path's row as JSON, and say how it ended if it does not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return Row(name, FAILED, f"no end after {limit_s:g} s")
    try:
        return Row(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return Row(name, FAILED, f"the process ended with {how}: {last}")


def describe(rows: Sequence[Row], device: str) -> str:
    """Return the page that is sent back: the machine, its card, the versions, and each path with its numbers."""
    import torch

    from vidret.devices import cuda_index
    from vidret.evaluate.report import list_versions

    index = cuda_index(device)
    card = "none" if index is None else str(torch.cuda.get_device_properties(index))
    facts = {"system": platform.platform(), "processor": read_processor(), "cores": os.cpu_count(), "device": device}
    facts |= {"card": card, "CUDA or ROCm": torch.version.cuda or torch.version.hip or "none", **list_versions()}
    lines = ["# vidret on this machine", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += ["| path | CPU s | device s | difference | at most | verdict | note |", "|---|---|---|---|---|---|---|"]
    home = str(Path.home())
    for row in rows:
        numbers = [row.cpu_s, row.device_s, row.difference, row.tolerance]
        cells = ["" if number is None else f"{number:.3g}" for number in numbers]
        note = row.reason.replace(tempfile.gettempdir(), "TMP").replace(home, "HOME").replace("|", "/")
        lines.append(f"| {row.path} | {' | '.join(cells)} | {row.verdict} | {note} |")
    return "\n".join(lines) + "\n"


def read_processor() -> str:
    """Return the name of the processor, as far as the system says it."""
    info = Path("/proc/cpuinfo")
    named = [line for line in info.read_text().splitlines() if "model name" in line] if info.is_file() else []
    return named[0].partition(":")[2].strip() if named else platform.processor() or platform.machine()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the paths; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="?", help="A folder of real videos.")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, xpu, xpu:N or mps.")
    parser.add_argument("--max-videos", type=int, default=8, help="Real videos to take at most.")
    parser.add_argument("--only", default="", help="Run only paths whose name holds this.")
    parser.add_argument("--tiny", action="store_true", help="Small models and inputs.")
    parser.add_argument("--page", type=Path, help="The page to write.")
    parser.add_argument("--run", help=argparse.SUPPRESS)  # one path, in this process
    given = parser.parse_args(arguments)
    from vidret.devices import choose_device
    from vidret.video.scan import scan

    device = choose_device(given.device)
    videos = scan([given.videos])[: given.max_videos] if given.videos else []
    if given.run:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(asdict(run_path(given.run, device, Path(scratch), videos, tiny=given.tiny))))
        return 0
    command = [sys.executable, __file__, *([given.videos] if given.videos else []), "--device", device]
    command += ["--max-videos", str(given.max_videos), *(["--tiny"] if given.tiny else [])]
    rows = []
    for name in list_paths():
        if given.only.lower() in name.lower():
            print(f"{name} ...", file=sys.stderr)
            rows.append(run_apart(name, [*command, "--run", name]))
    page = describe(rows, device)
    print(page, end="")
    if given.page is not None:
        given.page.write_text(page, "utf-8")
        print(f"{given.page} has all of this: please send it with your report", file=sys.stderr)
    return int(any(row.verdict in (DIFFERS, FAILED) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
