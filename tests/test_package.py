"""The public names of the package."""

from importlib import metadata

import pytest

import vidret


@pytest.mark.parametrize("name", vidret.__all__)
def test_public_name_can_be_imported(name: str) -> None:
    assert name == "Query" or getattr(vidret, name).__name__ == name  # a union has no name


def test_the_package_has_its_version() -> None:
    assert vidret.__version__ == metadata.version("vidret")


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'vidret' has no attribute 'nothing'"):
        _ = vidret.nothing
