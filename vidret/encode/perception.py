"""PE-Core as UniversalVTG's head reads it: by vectors of frames and words that are not normalised."""

import logging
from typing import Any

import numpy as np
import open_clip
import torch
from jaxtyping import Float
from torch import Tensor

from vidret.encode.encoder import normalise_pixels
from vidret.encode.families.open_clip import load_open_clip
from vidret.encode.names import ModelName
from vidret.types import Frames, Resize

logger = logging.getLogger(__name__)

BATCH = 32  # frames encoded together
GREY = (0.5,) * 3  # mean and deviation of pixels


class PerceptionEncoder:
    """PE-Core as UniversalVTG reads it: frames are squashed to a square, and no vector is normalised."""

    def __init__(self, name: str, device: torch.device) -> None:
        """Load the model; raise EncoderError if it cannot be loaded."""
        _, self._model, self._tokenizer = load_open_clip(ModelName(name))
        size = open_clip.get_model_preprocess_cfg(self._model)["size"]
        side = size if isinstance(size, int) else size[0]
        self.name, self._device = name, device
        self.resize = Resize(shorter=side, crop=side, interpolation="bilinear", squash=True)
        self._model.eval().to(device)

    @torch.inference_mode()
    def encode_frames(self, frames: Frames) -> Float[np.ndarray, "frame width"]:
        """Return the projected vectors of frames."""
        images = normalise_pixels(torch.from_numpy(frames.pixels).to(self._device), GREY, GREY, torch.float32)
        vectors = [self._model.encode_image(batch).float().cpu() for batch in torch.split(images, BATCH)]
        return torch.cat(vectors).numpy()

    @torch.inference_mode()
    def encode_words(self, text: str) -> Float[np.ndarray, "token width"]:
        """Return the projected vector of a text, then the states of its tokens from start to end.

        Tokens beyond the model's length are not read, which is logged.
        """
        ids, outputs = self._tokenizer([text]).to(self._device), list[Tensor]()
        tower: Any = getattr(self._model, "text", self._model)
        hook = tower.ln_final.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        try:
            sentence = self._model.encode_text(ids)
        finally:
            hook.remove()
        real = ids[0] != 0
        if bool(real.all()):
            logger.warning("the head reads the first %d tokens of %r", len(real), text)
        return torch.cat([sentence, outputs[0][0, real]]).float().cpu().numpy()
