"""The browser for the page's tests: find one, or install one with ``python -m tests.browser``.

Set ``VIDRET_BROWSER`` to a browser's path to choose it. Without a browser the tests marked ``browser`` are skipped, and
the run ends with a line that says so; with ``VIDRET_REQUIRE_BROWSER=1`` it is an error.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import sync_playwright

FLAGS = (
    "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update"
    " process-per-site"  # a process for each page would take most of the time of the page's tests
)
COMMANDS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge"]
COMMANDS += ["microsoft-edge-stable", "chrome", "msedge"]
APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)
SYSTEM_PACKAGES = {
    "apt-get": (("update", "-qq"), ("install", "-y", "-qq", "--no-install-recommends", "chromium")),
    "dnf": (("install", "-y", "-q", "chromium"),),
    "pacman": (("-Sy", "--noconfirm", "chromium"),),
    "apk": (("add", "--quiet", "chromium"),),
}
HOW_TO_INSTALL = "install Chromium, Chrome or Edge, or set VIDRET_BROWSER to the path of one"
INSTALL_TIMEOUT_S = 900


def is_required() -> bool:
    """Return whether a missing browser is an error."""
    return os.environ.get("VIDRET_REQUIRE_BROWSER", "") not in ("", "0")


def find_browser() -> str | None:
    """Return the path of a browser that starts, or None."""
    if chosen := os.environ.get("VIDRET_BROWSER"):
        return chosen if _starts(chosen) else None
    installed = (path for command in COMMANDS if (path := shutil.which(command)))
    for path in (*installed, *APPLICATIONS):
        if _starts(path):
            return path
    path = _playwright_path()  # which takes a second
    return path if _starts(path) else None


def install_browser() -> str | None:
    """Install a browser by Playwright, or else as a system package where this user may; return its path, or None."""
    print("No browser found for the page's tests. Trying: playwright install chromium", flush=True)
    _run([sys.executable, "-m", "playwright", "install", "chromium"])
    if (path := find_browser()) is not None:
        return path
    manager = next((name for name in SYSTEM_PACKAGES if shutil.which(name)), None)
    if manager is None or os.geteuid() != 0:
        return None
    for arguments in SYSTEM_PACKAGES[manager]:
        print(f"Trying: {manager} {' '.join(arguments)}", flush=True)
        _run([manager, *arguments])
    return find_browser()


def _playwright_path() -> str:
    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def _starts(path: str) -> bool:
    """Return whether a browser runs here: a file alone is not enough where its libraries are missing."""
    if not Path(path).is_file():
        return False
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _run(command: Sequence[str]) -> None:
    """Run an installer quietly; what matters is whether a browser starts afterwards."""
    try:
        subprocess.run(command, capture_output=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"{command[0]} failed: {error}", flush=True)


def main() -> int:
    """Make sure that there is a browser; fail only where one is required."""
    path = find_browser() or install_browser()
    if path is not None:
        print(f"browser for the page's tests: {path}")
        return 0
    print(f"No browser for the page's tests could be found or installed: {HOW_TO_INSTALL}.")
    return 1 if is_required() else 0


if __name__ == "__main__":
    sys.exit(main())
