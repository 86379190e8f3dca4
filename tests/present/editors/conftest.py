"""Fixtures of the tests of timelines."""

from pathlib import Path

import pytest

from tests.present.editors.numbered import write_films


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write films of several rates, whose frames show their numbers."""
    return write_films(tmp_path_factory.mktemp("numbered"))
