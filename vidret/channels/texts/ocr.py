"""Text in images: PP-OCR's detector and recogniser on OpenVINO, which runs them in half the time of ONNX Runtime.

The models come with rapidocr, which is not imported: reading its settings takes longer than loading the models, in
every process.

Reference: Liao et al. 2020, "Real-time Scene Text Detection with Differentiable Binarization"; Graves et al. 2006,
"Connectionist Temporal Classification".
"""

import functools
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from vidret.channels.texts.images import Box, crop_box, find_boxes, make_blob, make_strip
from vidret.errors import MissingExtraError, VidretError
from vidret.model_files import find_package
from vidret.types import Picture

SETTINGS = {
    "INFERENCE_NUM_THREADS": 1,
    "ENABLE_CPU_PINNING": False,  # else all processes run on the first core
    "INFERENCE_PRECISION_HINT": "f32",  # the same results on all CPUs
    "CPU_RUNTIME_CACHE_CAPACITY": 200,  # kernels, megabytes each, for images of different shapes
}


class TextModels:
    """A detector and a recogniser of texts, on one CPU thread."""

    def __init__(self) -> None:
        """Load the detector.

        Raises:
            MissingExtraError: The extra ``words`` is not installed.
            VidretError: The model is missing or damaged.
        """
        folder = find_package("rapidocr")
        if find_spec("openvino") is None or folder is None:
            raise MissingExtraError("reading on-screen text", "words")
        self._folder = folder
        self._detector, _ = _load_model(folder, "det")

    @functools.cached_property
    def _recogniser(self) -> tuple[Any, list[str]]:
        """The recogniser and its characters: the first means none, the last is a space."""
        recogniser, characters = _load_model(self._folder, "rec")
        return recogniser, ["", *characters.splitlines(), " "]

    def detect(self, image: Picture) -> list[Box]:
        """Return the corners of texts."""
        return find_boxes(_run(self._detector, make_blob(image))[0, 0])

    def read(self, image: Picture, box: Box) -> tuple[str, float]:
        """Return the text in a box, and the mean probability of its characters."""
        recogniser, characters = self._recogniser
        return decode_characters(_run(recogniser, make_strip(crop_box(image, box)))[0], characters)


def decode_characters(
    probabilities: Float32[np.ndarray, "step character"], characters: Sequence[str]
) -> tuple[str, float]:
    """Return the most probable text, and the mean probability of its characters; the first character means none.

    Equal characters in consecutive steps are one.
    """
    best = probabilities.argmax(axis=1)
    kept = np.flatnonzero((best > 0) & np.concatenate([[True], best[1:] != best[:-1]]))
    text = "".join(characters[row] for row in best[kept])
    return text.strip(), float(probabilities[kept, best[kept]].mean()) if len(kept) else 0.0


@functools.cache
def _load_openvino() -> Any:
    """Load OpenVINO and keep it loaded: threads handle signals on a stack that it frees when it is unloaded."""
    import openvino

    return openvino.Core()


def _load_model(folder: Path, part: str) -> tuple[Any, str]:
    """Load the detector (``det``) or the recogniser (``rec``), and the characters that its file lists, a line each."""
    path = next(iter((folder / "models").glob(f"*_{part}_*.onnx")), None)
    if path is None:
        raise VidretError(f"{folder}: must hold models/*_{part}_*.onnx; install rapidocr again")
    try:
        core = _load_openvino()
        model = core.read_model(path)
        characters = model.get_rt_info(["framework", "character"]).astype(str) if part == "rec" else ""
        return core.compile_model(model, "CPU", SETTINGS).create_infer_request(), characters
    except Exception as error:
        raise VidretError(f"{path}: cannot be loaded; install rapidocr again") from error


def _run(request: Any, blob: Float32[np.ndarray, "1 3 height width"]) -> Any:
    return request.infer({0: blob})[0]
