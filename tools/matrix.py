"""Run the quick tests with the oldest and the newest allowed dependencies, on every Python from 3.11 on that is here.

Each combination gets its own environment under ``build/matrix``, made by uv: the newest versions, or the lowest that
pyproject.toml allows and that have wheels for that Python. The first run downloads gigabytes; ``UV_TORCH_BACKEND=cpu``
makes that far less. A table at the end shows which combinations passed.

    python tools/matrix.py                           # everything
    python tools/matrix.py --python 3.13 --versions newest -- tests/video
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("cpu", "starter", "train", "words", "serve", "dev")
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
OLDEST_PYTHON = (3, 11)
# What has a version that matters when a combination fails.
SHOWN = ("torch", "av", "decord2", "open-clip-torch", "numpy", "faiss-cpu")


@dataclass(frozen=True)
class Result:
    """The outcome of one combination: ``passed``, or where it failed."""

    python: str
    versions: str
    outcome: str
    elapsed_s: float
    packages: dict[str, str]


def find_pythons(uv: str) -> dict[str, str]:
    """Return the interpreters that are installed, minor version to path; one of each, the newest."""
    listed = json.loads(_output([uv, "python", "list", "--only-installed", "--output-format", "json"]))
    pythons: dict[str, str] = {}
    for entry in listed:
        minor = (entry["version_parts"]["major"], entry["version_parts"]["minor"])
        if entry["implementation"] == "cpython" and entry["variant"] == "default" and minor >= OLDEST_PYTHON:
            pythons.setdefault(f"{minor[0]}.{minor[1]}", entry["path"])
    return dict(sorted(pythons.items(), key=lambda item: int(item[0].split(".")[1])))


def test_combination(uv: str, python: str, path: str, versions: str, tests: list[str]) -> Result:
    """Make the environment and run the tests in it; what they print goes to a log beside it."""
    started = time.monotonic()
    environment = ROOT / "build" / "matrix" / f"{python}-{versions}"
    interpreter = environment / "bin" / "python"
    variables = {**os.environ, "VIRTUAL_ENV": str(environment), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    install = [uv, "pip", "install", "--quiet", "--resolution", RESOLUTIONS[versions]]
    steps = {
        "environment": [uv, "venv", "--quiet", "--clear", "--python", path, str(environment)],
        "install": [*install, "--only-binary", ":all:", "--requirement", "pyproject.toml", *extras],
        "vidret": [uv, "pip", "install", "--quiet", "--no-deps", "--editable", "."],
        "tests": [str(interpreter), "-m", "pytest", "-n", "auto", "--dist", "worksteal", *tests],
    }
    outcome = "passed"
    log = environment.with_name(f"{environment.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        for step, command in steps.items():
            if subprocess.run(command, cwd=ROOT, env=variables, stdout=file, stderr=file, check=False).returncode != 0:
                outcome = f"FAILED: {step}, see {log.relative_to(ROOT)}"
                break
    packages = _list_packages(uv, variables) if interpreter.exists() else {}
    return Result(python, versions, outcome, time.monotonic() - started, packages)


def _list_packages(uv: str, variables: dict[str, str]) -> dict[str, str]:
    listed = json.loads(_output([uv, "pip", "list", "--format", "json"], variables))
    return {entry["name"]: entry["version"] for entry in listed if entry["name"] in SHOWN}


def _output(command: list[str], variables: dict[str, str] | None = None) -> str:
    return subprocess.run(command, capture_output=True, check=True, text=True, cwd=ROOT, env=variables).stdout


def show(results: list[Result]) -> None:
    """Print the table."""
    print(f"\n{'python':8}{'versions':10}{'minutes':>8}  {'outcome':24}packages")
    for result in results:
        packages = ", ".join(f"{name} {version}" for name, version in sorted(result.packages.items()))
        print(f"{result.python:8}{result.versions:10}{result.elapsed_s / 60:8.1f}  {result.outcome:24}{packages}")


def main() -> int:
    """Run the combinations one after another; return 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="A minor version, such as 3.13. Default: all installed.")
    parser.add_argument("--versions", choices=[*RESOLUTIONS], action="append", help="Default: both.")
    parser.add_argument("tests", nargs="*", help="Arguments for pytest, after --.")
    arguments = parser.parse_args()
    uv = str(Path(sys.executable).with_name("uv"))
    pythons = find_pythons(uv)
    absent = set(arguments.python or []) - set(pythons)
    if absent:
        parser.error(f"--python must be one of {', '.join(pythons)}, got {', '.join(sorted(absent))}")
    results = []
    for python, path in pythons.items():
        if arguments.python and python not in arguments.python:
            continue
        for versions in arguments.versions or RESOLUTIONS:
            print(f"Python {python}, {versions} dependencies ...", flush=True)
            results.append(test_combination(uv, python, path, versions, arguments.tests))
            print(f"  {results[-1].outcome}", flush=True)
    show(results)
    return 0 if all(result.outcome == "passed" for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
