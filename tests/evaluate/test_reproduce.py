"""docs/reproduce.md covers each method; that its commands exist is tested with those of all pages."""

import re
from pathlib import Path

from vidret.encode.clip.weights import SOURCES

TEXT = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text("utf-8")


def test_page_covers_each_method_and_marks_unverified_results() -> None:
    assert len(re.findall(r"^vidret .*$", TEXT, re.MULTILINE)) > 12
    for source in (*SOURCES, "r2tuning"):
        assert f"--from {source}" in TEXT
    assert TEXT.count("unverified") >= 6
