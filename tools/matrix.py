"""Run the quick tests with the oldest and the newest allowed dependencies, on every Python from 3.11 on that is here.

Each combination gets its own environment under ``build/matrix``, made by uv: the newest versions, or the lowest that
pyproject.toml allows and that have wheels for that Python; its log lists them. The first run downloads gigabytes;
``UV_TORCH_BACKEND=cpu`` makes that far less. A table at the end shows which combinations passed.

    python tools/matrix.py                           # everything
    python tools/matrix.py --python 3.13 --versions newest -- tests/video
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness import make_parser, print_rows

ROOT = Path(__file__).parents[1]
EXTRAS = ("cpu", "starter", "train", "words", "serve", "dev")
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
OLDEST_PYTHON = (3, 11)


def find_pythons(uv: str) -> dict[str, str]:
    """Return the interpreters that are installed, minor version to path; one of each, the newest."""
    command = [uv, "python", "list", "--only-installed", "--output-format", "json"]
    listed = json.loads(subprocess.run(command, capture_output=True, check=True, text=True, cwd=ROOT).stdout)
    pythons: dict[tuple[int, int], str] = {}
    for entry in listed:
        minor = (entry["version_parts"]["major"], entry["version_parts"]["minor"])
        if entry["implementation"] == "cpython" and entry["variant"] == "default" and minor >= OLDEST_PYTHON:
            pythons.setdefault(minor, entry["path"])
    return {f"{major}.{minor}": path for (major, minor), path in sorted(pythons.items())}


def test_combination(uv: str, path: str, environment: Path, versions: str, tests: Sequence[str]) -> str:
    """Make an environment with a log beside it, run the tests in it, and return ``passed`` or where it failed."""
    python = str(environment / "bin" / "python")
    variables = {**os.environ, "VIRTUAL_ENV": str(environment), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    install = [uv, "pip", "install", "--resolution", RESOLUTIONS[versions], "--only-binary", ":all:"]
    steps = {
        "environment": [uv, "venv", "--clear", "--python", path, str(environment)],
        "install": [*install, "--requirement", "pyproject.toml", *extras],
        "vidret": [uv, "pip", "install", "--no-deps", "--editable", "."],
        "tests": [python, "-m", "pytest", "-n", "auto", "--dist", "worksteal", *tests],
    }
    log = environment.with_name(f"{environment.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        for step, command in steps.items():
            if subprocess.run(command, cwd=ROOT, env=variables, stdout=file, stderr=file, check=False).returncode != 0:
                return f"FAILED: {step}, see {log.relative_to(ROOT)}"
    return "passed"


def main() -> int:
    """Run the combinations one after another; return 1 if any failed."""
    parser = make_parser(__doc__)
    parser.add_argument("--python", action="append", help="a minor version, such as 3.13; default: all installed")
    parser.add_argument("--versions", choices=[*RESOLUTIONS], action="append", help="default: both")
    parser.add_argument("tests", nargs="*", help="arguments for pytest, after --")
    given = parser.parse_args()
    uv = str(Path(sys.executable).with_name("uv"))
    pythons = find_pythons(uv)
    if absent := set(given.python or []) - set(pythons):
        parser.error(f"--python must be one of {', '.join(pythons)}, got {', '.join(sorted(absent))}")
    rows = []
    for python in given.python or pythons:
        for versions in given.versions or RESOLUTIONS:
            started, environment = time.monotonic(), ROOT / "build" / "matrix" / f"{python}-{versions}"
            outcome = test_combination(uv, pythons[python], environment, versions, given.tests)
            rows.append((python, versions, f"{(time.monotonic() - started) / 60:.1f}", outcome))
            print(*rows[-1], flush=True)
    print_rows(("python", "versions", "minutes", "outcome"), rows)
    return int(any(outcome != "passed" for *_, outcome in rows))


if __name__ == "__main__":
    sys.exit(main())
