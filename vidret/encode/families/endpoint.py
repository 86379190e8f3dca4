"""Encoders behind an embeddings endpoint in OpenAI's style: frames are sent as JPEG, texts unchanged."""

import base64
import hashlib
import io
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from vidret.encode.encoder import average_units
from vidret.encode.names import ModelName, parse_model_name
from vidret.endpoints.transport import JsonTransport
from vidret.errors import EncoderError
from vidret.text import format_count
from vidret.types import Frames, Resize, Sampling, SegmentEmbedding, TextEmbedding

EXAMPLE = "endpoint:http://127.0.0.1:7997/v1?model=NAME"
KEY_VARIABLE, BUDGET_VARIABLE = "VIDRET_ENDPOINT_KEY", "VIDRET_ENDPOINT_BUDGET"
MAX_ANSWER_BYTES = 64 << 20
IMAGE_BATCH, TEXT_BATCH = 16, 64
DEFAULT_SIZE, SIZES = 224, (32, 1024)
JPEG_QUALITY = 95


def _ask_by_message(images: Sequence[str]) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    return {"messages": [{"role": "user", "content": content}]}


# How images are sent: as data URIs (Infinity), as objects (Jina), or one per request as a chat message (vLLM).
IMAGES: dict[str, tuple[Callable[[Sequence[str]], dict[str, Any]], int]] = {
    "uris": (lambda images: {"input": list(images), "modality": "image"}, IMAGE_BATCH),
    "objects": (lambda images: {"input": [{"image": image.partition(",")[2]} for image in images]}, IMAGE_BATCH),
    "messages": (_ask_by_message, 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointName:
    """The parsed name of an endpoint, ``endpoint:URL?model=NAME``.

    Attributes:
        url: Its base URL; ``/embeddings`` is added if missing.
        model: The requested model.
        images: How images are sent, of ``IMAGES``.
        size: Side of the frames in pixels, cropped to a square.
    """

    url: str
    model: str
    images: str = "uris"
    size: int = DEFAULT_SIZE


def parse_endpoint(address: str) -> EndpointName:
    """Parse the name of an endpoint, without its scheme.

    Raises:
        EncoderError: The name has no model, or an unknown or invalid parameter.

    >>> parse_endpoint("http://127.0.0.1:7997/v1?model=clip&size=336")
    EndpointName(url='http://127.0.0.1:7997/v1', model='clip', images='uris', size=336)
    """
    try:
        parts = urlsplit(address)
    except ValueError:  # such as an unclosed IPv6 address
        parts = urlsplit("")
    values = dict(parse_qsl(parts.query))
    unknown = values.keys() - {"model", "images", "size"}
    if unknown or "model" not in values:
        rule = f"must be like {EXAMPLE}, with the parameters model, images and size"
        raise EncoderError(
            f"endpoint:{urlunsplit(parts._replace(query='', netloc=parts.netloc.rpartition('@')[2]))}: {rule}"
        )
    images, size = values.get("images", "uris"), values.get("size", str(DEFAULT_SIZE))
    if images not in IMAGES:
        raise EncoderError(f"images of an endpoint must be {', '.join(IMAGES)}, got {images}")
    if size not in map(str, range(SIZES[0], SIZES[1] + 1)):
        raise EncoderError(f"size of an endpoint must be {SIZES[0]} to {SIZES[1]} pixels, got {size[:20]}")
    url = urlunsplit(parts._replace(query=""))
    return EndpointName(url=url, model=values["model"], images=images, size=int(size))


class EndpointEncoder:
    """An embeddings endpoint; a segment's vector is the mean of its frames' vectors.

    Attributes are those of ``Encoder``. The fingerprint is that of the model's name and of the form of requests: it
    does not detect that an endpoint changes its weights under the same name.
    """

    encodes_frames_alone = True

    def __init__(self, name: str) -> None:
        """Connect to an endpoint by its name, and request the vector of one text; see ``EndpointName``.

        Raise EncoderError if the name is invalid, or the budget is not a number, or EndpointError if the endpoint does
        not answer with vectors.
        """
        parsed = parse_model_name(name)
        source = parse_endpoint(parsed.rest)
        self._source, self.name = source, name
        self._transport = JsonTransport(
            url=source.url,
            path="/embeddings",
            option="model",
            example=EXAMPLE,
            key=os.environ.get(KEY_VARIABLE) or None,
            key_variable=KEY_VARIABLE,
            timeout_s=60.0,
            retries=4,
            backoff_s=1.0,
            max_answer_bytes=MAX_ANSWER_BYTES,
        )
        self._budget, self._lock = read_budget(), threading.Lock()
        self.resize = Resize(shorter=source.size, crop=source.size)
        self.sampling = parsed.sample(Sampling())
        self.dim = self._embed({"input": ["a video"]}, 1).shape[1]
        facts = (source.model, source.images, source.size, self.dim, self.sampling)
        self.fingerprint = hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each segment's frames, which must have the size that ``resize`` produces.

        Raise EncoderError if ``tokens`` are requested, or the budget is used up, or EndpointError if the endpoint does
        not answer with vectors.
        """
        if tokens:
            raise EncoderError(f"tokens must come from a model with patches, got {self.name}")
        make, size = IMAGES[self._source.images]
        images = [_to_uri(pixels) for frames in batch for pixels in frames.pixels]
        chunks = [images[start : start + size] for start in range(0, len(images), size)]
        vectors = np.concatenate([self._embed(make(chunk), len(chunk)) for chunk in chunks])
        ends = np.cumsum([len(frames) for frames in batch])[:-1]
        return [
            SegmentEmbedding(average_units(frame_vectors), frame_vectors, frames.times)
            for frames, frame_vectors in zip(batch, np.split(vectors, ends), strict=True)
        ]

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text.

        Raise EncoderError if the budget is used up, or EndpointError if the endpoint does not answer with vectors.
        """
        chunks = [list(texts[start : start + TEXT_BATCH]) for start in range(0, len(texts), TEXT_BATCH)]
        rows = (row for chunk in chunks for row in self._embed({"input": chunk}, len(chunk)))
        return [TextEmbedding(text, row, row[None]) for text, row in zip(texts, rows, strict=True)]

    def _embed(self, request: dict[str, Any], count: int) -> Float32[np.ndarray, "{count} dim"]:
        """Return the unit vectors of the inputs of a request."""
        self._spend(count)

        def read(_kind: str, lines: Iterator[bytes]) -> Iterator[Float32[np.ndarray, "_row _dim"]]:
            yield _read_vectors(json.loads(b"".join(lines)), count, getattr(self, "dim", None))

        full = {"model": self._source.model, "encoding_format": "float", **request}
        return next(self._transport.post(full, read, what=f"{format_count(count, 'vector')} of numbers"))

    def _spend(self, count: int) -> None:
        with self._lock:
            if self._budget is None:
                return
            if self._budget < count:
                raise EncoderError(f"{self.name}: the budget in {BUDGET_VARIABLE} is used up")
            self._budget -= count


def load_endpoint(name: ModelName, *, device: str, precision: str) -> EndpointEncoder:
    """Connect to an endpoint, which chooses its own device.

    Raise EncoderError if a precision is requested, and errors as ``EndpointEncoder`` does.
    """
    if precision != "auto":
        raise EncoderError(f"precision of an endpoint must be auto, got {precision}")
    return EndpointEncoder(str(name))


def read_budget() -> int | None:
    """Return the number of frames and texts that this process may send, from the environment; None for no limit.

    Raise EncoderError if it is not a number.
    """
    text = os.environ.get(BUDGET_VARIABLE, "")
    if text and not text.isdecimal():
        raise EncoderError(f"{BUDGET_VARIABLE} must be a number of frames and texts, got {text}")
    return int(text) if text else None


def _to_uri(pixels: UInt8[np.ndarray, "y x 3"]) -> str:
    """Return a frame as the data URI of a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _read_vectors(answer: Any, count: int, dim: int | None) -> Float32[np.ndarray, "{count} dim"]:
    """Return the unit vectors of an answer, in the order of the inputs."""
    rows = sorted(answer["data"], key=lambda row: row["index"])
    vectors = np.array([row["embedding"] for row in rows], np.float32)
    is_valid = vectors.ndim == 2 and np.isfinite(vectors).all() and vectors.any(axis=1).all()
    if not is_valid or vectors.shape != (count, dim or vectors.shape[1]):
        raise ValueError("vectors must be finite, and one for each input")
    units: Float32[np.ndarray, "{count} dim"] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return units
