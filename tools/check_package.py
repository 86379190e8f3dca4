"""Build the sdist, and the wheel from it; run the wheel in an environment without the checkout.

    python tools/check_package.py

Both are left in build/package. The environment has the dependencies of the one that runs this, which must hold the
extras cpu, starter and demo: only vidret itself is installed. uv builds, so the first run needs a network for
setuptools.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "vidret"


def check_files(packed: Collection[str], tracked: Collection[str]) -> list[str]:
    """Return what is wrong with the paths in a wheel: those of the package that it lacks, and others."""
    needed = {path for path in tracked if path.startswith(f"{PACKAGE}/")}
    expected = needed | {path for path in packed if path.startswith(f"{PACKAGE}-")}  # with its metadata
    lacking, strange = sorted(needed - set(packed)), sorted(set(packed) - expected)
    return [*(f"the wheel lacks {path}" for path in lacking), *(f"the wheel has {path}" for path in strange)]


def build(out: Path) -> Path:
    """Build the sdist, then the wheel from it, and return the path of the wheel."""
    shutil.rmtree(out, ignore_errors=True)
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "uv"
    _run(uv, "build", "--quiet", "--python", sys.executable, "--out-dir", out, ROOT)
    (wheel,) = out.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Make an environment with a wheel and the dependencies that are installed here; return its folder of programs."""
    python, here = folder / "bin" / "python", sysconfig.get_path("purelib")
    _run(sys.executable, "-m", "venv", "--without-pip", folder)
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
    site_packages = _read(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # After its own packages, so that vidret is the wheel's; the checkout's entry in a .pth file there is not followed.
    Path(site_packages, "dependencies.pth").write_text(f"{here}\n", "utf-8")
    return python.parent


def _run(*command: str | Path, folder: Path | None = None) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    print("$", *(Path(word).name if Path(word).is_absolute() else word for word in command), flush=True)
    subprocess.run(command, cwd=folder, env=environment, check=True)


def _read(*command: str | Path) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Build, check the files, install, and run the program."""
    wheel, tracked = build(ROOT / "build" / "package"), _read("git", "ls-files").splitlines()
    with zipfile.ZipFile(wheel) as archive:
        if wrong := check_files(archive.namelist(), tracked):
            raise SystemExit("\n".join(wrong))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs = install(wheel, folder / "environment")
        where = "import pathlib, sys, vidret; sys.exit(not pathlib.Path(vidret.__file__).is_relative_to(sys.prefix))"
        _run(programs / "python", "-c", where, folder=folder)
        for command in ("--version", "demo"):
            _run(programs / PACKAGE, command, folder=folder)
    print(f"{wheel.name}: built, installed and run")


if __name__ == "__main__":
    main()
