"""The small synthetic world that methods train on."""

from pathlib import Path

import pytest

from tests.train.small import write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder
