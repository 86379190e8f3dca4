"""YuNet and SFace in place of the faces of the extra ``people``, with OpenCV and the two files of OpenCV Zoo.

    export YUNET=face_detection_yunet_2023mar.onnx SFACE=face_recognition_sface_2021dec.onnx
    PYTHONPATH=examples vidret index VIDEOS --people on --face-model opencv_faces:OpenCVFaces

The limits are those that OpenCV and the authors name; check them on videos of yours, by ``vidret people --sheet``.
"""

import hashlib
import os
from pathlib import Path

import cv2
import numpy as np

from vidret.channels.people.faces import Face
from vidret.errors import VidretError


class OpenCVFaces:
    """Attributes and methods are those of ``vidret.channels.people.faces.FaceModel``."""

    # Where the alignment of SFace puts the eyes, the nose and the corners of the mouth.
    template = np.array(
        ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
    )
    side = 112
    link_distance, maybe_distance = 1.05, 1.128  # of unit vectors: cosines of 0.45, and of 0.363 as OpenCV says

    def __init__(self) -> None:
        """Load the weights that YUNET and SFACE name."""
        paths = [Path(os.environ.get(name, "")) for name in ("YUNET", "SFACE")]
        if not all(path.is_file() for path in paths):
            raise VidretError(f"YUNET and SFACE must name files of OpenCV Zoo, got {paths[0]} and {paths[1]}")
        self._detector = cv2.FaceDetectorYN.create(str(paths[0]), "", (320, 320), score_threshold=0.6)
        self._recogniser = cv2.FaceRecognizerSF.create(str(paths[1]), "")
        digest = hashlib.blake2b(b"".join(path.read_bytes() for path in paths), digest_size=8)
        self.name = f"yunet+sface:{digest.hexdigest()}"

    def find(self, image: np.ndarray, *, min_size: float) -> list[Face]:
        """Return the faces of an image that are large enough."""
        self._detector.setInputSize((image.shape[1], image.shape[0]))
        _, rows = self._detector.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        faces = []
        for left, top, width, height, *points, score in [] if rows is None else rows.tolist():
            if max(width, height) >= min_size:
                sure = min(1.0, 0.8 + 0.6 * (score - 0.6))  # vidret wants 0.98 of a person, which is 0.9 of YuNet
                faces.append(Face((left, top, left + width, top + height), np.reshape(points, (5, 2)), sure))
        return faces

    def describe(self, chips: np.ndarray) -> np.ndarray:
        """Return the vectors of aligned images."""
        rows = [self._recogniser.feature(cv2.cvtColor(chip, cv2.COLOR_RGB2BGR)) for chip in chips]
        return np.concatenate(rows).astype(np.float32)
