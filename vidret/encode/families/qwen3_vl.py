"""Qwen3-VL-Embedding: one vector per segment, which a vision-language model sees as a video.

The message, the sampling and the budget of pixels are those of its authors. Their code embeds the word NULL for a video
that cannot be decoded; here such a file fails.

Reference: QwenLM/Qwen3-VL-Embedding, "src/models/qwen3_vl_embedding.py"; qwen-vl-utils.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor
from torch.nn import functional

from vidret.encode.encoder import digest_weights, embed_whole
from vidret.encode.families.transformers_models import FILTERS
from vidret.encode.long_text import encode_clauses
from vidret.encode.model_hub import Repository
from vidret.encode.names import ModelName
from vidret.encode.precision import DTYPES, choose_float_precision
from vidret.errors import EncoderError
from vidret.types import Frames, Resize, Sampling, SegmentEmbedding, TextEmbedding

MODEL_TYPE = "qwen3_vl"
DOCUMENT = "Represent the user's input."
QUERY = "Find a video that contains the following visual content."  # MMEB-V2's
EMPTY = "NULL"
FPS, MIN_FRAMES, MAX_FRAMES = 1.0, 4, 64
SEGMENT_FRAMES = 16  # of a segment without a cut
CONTEXT = 8192  # tokens
TOTAL_PIXELS = 10 * 768 * 32 * 32  # of a video, for every second frame: two frames are merged
MIN_TOKENS, MAX_TOKENS = 128, 768  # per frame, before it is merged with the next
MILLISECONDS = 1000.0


def make_message(instruction: str, item: dict[str, str]) -> list[dict[str, Any]]:
    """Return the conversation to embed: the instruction, then a text or a video."""
    return [{"role": "system", "content": [{"type": "text", "text": instruction}]}, {"role": "user", "content": [item]}]


VIDEO = make_message(DOCUMENT, {"type": "video"})


def thin_frames(num_frames: int, rate: float) -> Int64[np.ndarray, " chosen"]:
    """Return the indices of the frames of a video to encode: one per second, evenly spread, from 4 (or all) to 64.

    >>> thin_frames(10, 2.0).tolist()
    [0, 2, 4, 7, 9]
    """
    count = min(max(int(num_frames / rate * FPS), MIN_FRAMES), MAX_FRAMES, num_frames)
    return np.linspace(0, num_frames - 1, count).round().astype(np.int64)


def pool_last(
    states: Float[Tensor, "item token width"], mask: Shaped[Tensor, "item token"]
) -> Float[Tensor, "item width"]:
    """Return the state of the last token of each item that is not padding, with padding on the right."""
    last = mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)
    return states[torch.arange(len(states), device=states.device), last]


class QwenVideoEncoder:
    """Qwen3-VL-Embedding; a segment is one video, and its vector is used for each of its frames.

    Attributes are those of ``Encoder``, ``device``, and ``instruction``, which precedes queries.
    """

    encodes_frames_alone = False
    has_frame_vectors = False

    def __init__(self, name: ModelName, model: Any, processor: Any, *, device: str, dtype: torch.dtype) -> None:
        self.name, self.device, self.instruction = str(name), device, QUERY
        default = Sampling(num_frames=MAX_FRAMES if name.whole else SEGMENT_FRAMES, fps=FPS)
        self.sampling = name.sample(default)
        self.resize = make_resize(processor.video_processor, self.sampling.num_frames, name.pixels)
        self._model, self._processor, self._lock = model.eval(), processor, Lock()
        self._batch_size = max(1, MAX_FRAMES // self.sampling.num_frames)
        width = int(model.config.text_config.hidden_size)
        self.dim = name.dims or width
        if self.dim > width:
            raise EncoderError(f"dims must be at most {width} for {name.base}, got {self.dim}")
        facts = (MODEL_TYPE, self.resize, self.sampling, self.dim, DOCUMENT, QUERY, CONTEXT)
        self.fingerprint = digest_weights(model.state_dict().items(), *facts)
        model.to(device, dtype)

    @property
    def prompts(self) -> dict[str, str]:
        """The instructions by the kind of input that they precede."""
        return {"query": self.instruction, "document": DOCUMENT}

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each segment as one video; frames must have the size that ``resize`` produces.

        Raise EncoderError if ``tokens`` are requested, or a segment has no frame.
        """
        if tokens:
            raise EncoderError(f"tokens must come from a model with patches, got {self.name}, which encodes videos")
        if not all(map(len, batch)):
            raise EncoderError("a video must have at least one frame, got none")
        embeddings = []
        for start in range(0, len(batch), self._batch_size):
            chunk = batch[start : start + self._batch_size]
            shown = [show_frames(frames) for frames in chunk]
            vectors = self._encode([VIDEO] * len(shown), shown)
            embeddings += [embed_whole(vector, frames.times) for vector, frames in zip(vectors, chunk, strict=True)]
        return embeddings

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text as a query; one beyond the model's length is split into clauses, with a warning."""
        return encode_clauses(texts, self._encode_short, self._fits, context=CONTEXT, name=self.name)

    def _encode_short(self, texts: Sequence[str]) -> list[TextEmbedding]:
        vectors = self._encode([self._ask(text) for text in texts], [])
        return [TextEmbedding(text, vector, vector[None]) for text, vector in zip(texts, vectors, strict=True)]

    def _fits(self, text: str) -> bool:
        with self._lock:
            prompt = self._write(self._ask(text))
            return len(self._processor.tokenizer(prompt, truncation=False, verbose=False)["input_ids"]) <= CONTEXT

    def _ask(self, text: str) -> list[dict[str, Any]]:
        return make_message(self.instruction, {"type": "text", "text": text or EMPTY})

    def _write(self, message: Any) -> str:
        """Return a message in the model's chat template."""
        return str(self._processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True))

    @torch.inference_mode()
    def _encode(self, messages: Sequence[Any], shown: Sequence[Frames]) -> Float32[np.ndarray, "item dim"]:
        """Return the vectors of messages, each about one video if any are ``shown``."""
        videos: dict[str, Any] = {}
        if shown:
            videos["videos"] = [torch.from_numpy(frames.pixels).permute(0, 3, 1, 2) for frames in shown]
            videos["video_metadata"] = [describe_clock(frames) for frames in shown]
            videos |= {"do_sample_frames": False, "do_resize": False, "cap_pixels_per_frame": False}
        with self._lock:  # padding is a setting of a fast tokenizer for all threads
            inputs = self._processor(
                text=[self._write(message) for message in messages],
                padding=True,
                padding_side="right",
                return_tensors="pt",
                **videos,
            )
        inputs.pop("video_metadata", None)
        inputs = {key: value.to(self.device) for key, value in inputs.items()}
        states = self._model(**inputs, use_cache=False).last_hidden_state
        pooled = pool_last(states, inputs["attention_mask"]).float()[:, : self.dim]
        return functional.normalize(pooled, dim=-1).cpu().numpy()


def make_resize(processor: Any, num_frames: int, pixels: int | None) -> Resize:
    """Return the resizing of frames: within the budget of a video of ``num_frames``, or to at most ``pixels``."""
    multiple = int(processor.patch_size * processor.merge_size)
    budget = pixels or min(MAX_TOKENS * multiple**2, 2 * TOTAL_PIXELS // num_frames)
    side = max(multiple, math.isqrt(budget) // multiple * multiple)
    least = min(MIN_TOKENS * multiple**2, budget)
    interpolation = FILTERS[int(processor.resample)]
    return Resize(side, side, interpolation, multiple=multiple, min_pixels=least, max_pixels=budget)


def show_frames(frames: Frames) -> Frames:
    """Return the frames of a segment to encode."""
    seconds = float(frames.times[-1] - frames.times[0])
    rate = (len(frames) - 1) / seconds if seconds > 0 else FPS
    chosen = thin_frames(len(frames), rate)
    return Frames(np.ascontiguousarray(frames.pixels[chosen]), frames.times[chosen])


def describe_clock(frames: Frames) -> dict[str, Any]:
    """Return the metadata of a video whose clock begins with its first frame; the model reads these times."""
    times = np.round((frames.times - frames.times[0]) * MILLISECONDS).astype(int).tolist()
    return {"total_num_frames": times[-1] + 1, "fps": MILLISECONDS, "frames_indices": times}


def load_qwen(repository: Repository, *, device: str, precision: str) -> QwenVideoEncoder:
    """Load Qwen3-VL-Embedding from a repository.

    Raise EncoderError if the files are incomplete, the processor has no chat template, or the precision does not apply.
    """
    name = repository.name
    dtype = DTYPES[choose_float_precision(name.base, precision, torch.device(device))]
    processor = repository.load("AutoProcessor")
    model = repository.load_model(dtype="auto")
    if not processor.chat_template:
        raise EncoderError(f"{name.base}: the processor must have a chat template, got none")
    full = replace(name, base=f"{name.scheme}:{repository.source}")
    return QwenVideoEncoder(full, model, processor, device=device, dtype=dtype)
