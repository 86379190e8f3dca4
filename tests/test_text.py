"""Tests of vidret/text.py: telling URLs from paths, and writing paths and times."""

import os
from pathlib import Path

import pytest

from vidret.errors import DecodeError, UnreachableError
from vidret.text import absolute_path, as_path, display_path, file_name, is_url, sanitize, show_path, strip_query


@pytest.mark.parametrize(
    "url", ["s3://bucket/a.mp4", "gs://b", "HTTPS://host/a.mp4?x=1", "memory://a//b.mp4", "s3a+x.y-z://b/c"]
)
def test_urls_are_returned_unchanged(url: str) -> None:
    assert is_url(url)
    assert as_path(url) == absolute_path(url) == url
    assert display_path(url) == show_path(url) == strip_query(url)


@pytest.mark.parametrize("path", ["a:b.mp4", "C:\\a.mp4", "C://a.mp4", "/s3://b", "s3:/b/a.mp4", "://a", "a b://c", ""])
def test_unusual_names_are_paths(path: str) -> None:
    assert not is_url(path)
    assert as_path(path) == strip_query(path) == path
    assert absolute_path(path) == os.path.abspath(path)  # noqa: PTH100


def test_file_urls_are_paths() -> None:
    path = os.fsdecode(b"/films/a b caf\xe9%?.mp4")
    assert as_path(Path(path).as_uri()) == absolute_path(Path(path).as_uri()) == path
    assert as_path("file://localhost/a.mp4") == as_path("local:///a.mp4") == as_path("FILE:///a.mp4") == "/a.mp4"


def test_query_strings_are_left_out_of_messages() -> None:
    url = "https://host/films/a.mp4?X-Signature=5f/6.mp4"
    assert file_name(url) == "a.mp4"
    assert file_name("/films/why?.mp4") == "why?.mp4"
    for kind in (DecodeError, UnreachableError):
        assert str(kind(url, "is empty")) == "https://host/films/a.mp4: is empty"
    assert str(DecodeError("/films/why?.mp4", "is empty")) == "/films/why?.mp4: is empty"


@pytest.mark.parametrize(
    "name",
    [
        "Screen Recording 2024-07-14 at 10.15.00\u202fAM.mov",  # as macOS names it
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.mp4",  # Persian, with a non-joiner
        "family \U0001f468\u200d\U0001f469\u200d\U0001f467.mp4",  # one emoji, of three and joiners
        "\u200eWhatsApp Video.mp4",  # as WhatsApp names it
        "a\u00a0b.mp4",
        "why\uf025.mp4",  # a question mark from a share of Windows
        "heart \U0001fa77.mp4",  # unknown to Python 3.11
    ],
)
def test_names_are_shown_as_they_are(name: str) -> None:
    assert sanitize(name) == show_path(name) == name


def test_what_acts_on_the_text_around_is_replaced() -> None:
    acting = "\x1b\x00\x9b\n\r\x85\u2028\u2029\u202e\u2066\ufffe\uffff\udcff\ud800\U000e0041"
    assert set(sanitize(acting)) == {"\N{REPLACEMENT CHARACTER}"}
    assert sanitize("a" + acting).startswith("a")
