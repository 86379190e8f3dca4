"""Models of faces by their names."""

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from vidret.channels.identities.kinds import TRACK_KINDS
from vidret.channels.people.dlib_resnet import SIDE, DlibResNet
from vidret.channels.people.faces import FaceModel
from vidret.channels.people.mtcnn import MTCNN
from vidret.encode.families.registry import is_class_name, make_custom
from vidret.errors import VidretError

BUNDLED = TRACK_KINDS["face"].bundled
_RESNET = "dlib_face_recognition_resnet_model_v1.dat"
# Where MTCNN's points are in images that dlib has aligned by points of its own: medians, made symmetrical.
_TEMPLATE = np.array(((49.5, 46.5), (104.0, 46.5), (77.0, 78.0), (54.5, 106.8), (98.5, 106.8)))


class BundledFaces:
    """MTCNN finds faces, and dlib's ResNet describes them; their weights come with packages of the extra ``people``."""

    template, side = _TEMPLATE, SIDE
    # dlib's 0.6 of its vectors, about 0.43 at unit length, joins strangers where faces are as small as in videos.
    link_distance, maybe_distance = 0.37, 0.43

    def __init__(self) -> None:
        """Load the weights.

        Raises:
            MissingExtraError: The extra ``people`` is not installed.
            VidretError: Weights are missing or damaged.
        """
        TRACK_KINDS["face"].check_installed(BUNDLED)
        weights = find_package("face_recognition_models") / "models" / _RESNET
        self.find = MTCNN(find_package("mtcnn") / "assets" / "weights").find
        self.describe = DlibResNet(weights).describe
        self.name = f"{BUNDLED}:unit:{hashlib.blake2b(weights.read_bytes(), digest_size=8).hexdigest()}"


def find_package(name: str) -> Path:
    """Return the folder of a package, which is not imported.

    Raises:
        VidretError: It has none.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise VidretError(f"{name}: the package has no folder; install it again")
    return Path(spec.submodule_search_locations[0])


@lru_cache(maxsize=1)
def load_face_model(name: str = BUNDLED) -> FaceModel:
    """Load a model of faces: the one of the extra ``people``, or a class of yours, as ``package.module:Class``.

    Raises:
        VidretError: The name is unknown, or the model cannot be loaded.
    """
    if name == BUNDLED:
        return BundledFaces()
    if not is_class_name(name):
        raise VidretError(f"a face model must be {BUNDLED} or package.module:Class, got {name}")
    model: FaceModel = make_custom(name, "face model")
    return model
