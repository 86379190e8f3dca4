"""Proof for vidret/text.py: what is an address, what is a path, and what of both is told."""

import os
from pathlib import Path

import pytest

from vidret import text
from vidret.errors import DecodeError, UnreachableError
from vidret.text import absolute, as_path, file_name, is_address, short, tellable


@pytest.mark.parametrize(
    "address", ["s3://bucket/a.mp4", "gs://b", "HTTPS://host/a.mp4?x=1", "memory://a//b.mp4", "s3a+x.y-z://b/c"]
)
def test_addresses_stay_as_they_are(address: str) -> None:
    assert is_address(address)
    assert as_path(address) == absolute(address) == short(address) == address


@pytest.mark.parametrize("path", ["a:b.mp4", "C:\\a.mp4", "C://a.mp4", "/s3://b", "s3:/b/a.mp4", "://a", "a b://c", ""])
def test_odd_names_are_paths(path: str) -> None:
    assert not is_address(path)
    assert as_path(path) == tellable(path) == path
    assert absolute(path) == os.path.abspath(path)  # noqa: PTH100


def test_a_file_address_is_a_path() -> None:
    path = os.fsdecode(b"/films/a b caf\xe9%?.mp4")
    assert as_path(Path(path).as_uri()) == absolute(Path(path).as_uri()) == path
    assert as_path("file://localhost/a.mp4") == as_path("local:///a.mp4") == as_path("FILE:///a.mp4") == "/a.mp4"
    assert not is_address("file:///a.mp4")


def test_a_query_string_is_not_told() -> None:
    address = "https://host/films/a.mp4?X-Signature=5f/6.mp4"
    assert tellable(address) == "https://host/films/a.mp4"
    assert file_name(address) == "a.mp4"
    assert file_name("/films/why?.mp4") == "why?.mp4"
    for kind in (DecodeError, UnreachableError):
        assert str(kind(address, "is empty")) == "https://host/films/a.mp4: is empty"
    assert str(DecodeError("/films/why?.mp4", "is empty")) == "/films/why?.mp4: is empty"


def test_times_are_written_as_people_read_them() -> None:
    assert (text.clock(75.25), text.clock(3675)) == ("1:15.2", "1:01:15.0")
