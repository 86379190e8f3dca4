"""One thread and no network for every test; tests of the page are skipped, loudly, where there is no browser."""

import os
from collections.abc import Sequence

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import jaxtyping
import pytest
import torch

if os.environ.get("HOOK", "1") == "1":
    import tests.shapes
    jaxtyping.install_import_hook("vidret", "tests.shapes.check")

from tests.browser import HOW_TO_INSTALL, find_browser, is_required

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Skip the tests marked ``browser`` where there is none, unless one is required."""
    marked = [item for item in items if "browser" in item.keywords]
    if not marked or find_browser() is not None:
        return
    if is_required():
        raise pytest.UsageError(f"VIDRET_REQUIRE_BROWSER is set, but there is no browser: {HOW_TO_INSTALL}")
    for item in marked:
        item.add_marker(pytest.mark.skip(reason="there is no browser"))


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """End with one line about the tests that were skipped because there is no browser."""
    reports = terminalreporter.stats.get("skipped", [])
    # A whole module that is skipped leaves a report of the collection, which has no keywords.
    skipped = [report for report in reports if "browser" in getattr(report, "keywords", ())]
    if skipped:
        terminalreporter.write_line(
            f"NOT TESTED: the page of vidret serve ({len(skipped)} tests), for want of a browser: {HOW_TO_INSTALL}.",
            red=True,
            bold=True,
        )
