"""The CLIP encoder: plain, with TempMe's token merging, with Prompt Switch, or with token shift."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import groupby
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch.nn import functional

from vidret.encode.clip.model import ClipModel
from vidret.encode.clip.outputs import FrameTokens, join_images, join_layers
from vidret.encode.clip.vision import VisionTower, compile_tower
from vidret.encode.encoder import average_units, digest_weights, normalise_pixels
from vidret.encode.long_text import encode_clauses, quote_first
from vidret.encode.precision import quantize_tower
from vidret.errors import EncoderError
from vidret.types import Frames, LayerTokens, LayerWords, SegmentEmbedding, TextEmbedding

logger = logging.getLogger(__name__)


class ClipEncoder:
    """A CLIP model; a segment's vector is the mean of its frames' class embeddings.

    A segment's tokens are the patches left after merging, each with the number of original patches in it. Attributes
    are those of ``Encoder``, and ``device``. The model is kept in ``dtype``, low-rank updates folded in; vectors are
    float32 of unit length.

    Models with prompts, token shift, or merging across frames encode each segment as one video. For Prompt Switch, a
    segment is padded to whole clips with its last frame, and every clip spans the whole segment; the vectors of padding
    are dropped.
    """

    def __init__(
        self,
        name: str,
        model: ClipModel,
        tokenizer: Any,
        *,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int = 64,
        int8_cosine: float | None = None,
        compiler: str | None = None,
        cuts_texts: bool = False,
    ) -> None:
        """Wrap a model with loaded weights and its tokenizer; ``batch_size`` counts frames (or texts).

        ``int8_cosine`` converts the vision tower's layers to int8 at first use; see ``quantize_tower``. ``compiler`` is
        the backend of ``torch.compile`` for the vision tower, None for none. ``cuts_texts`` truncates long texts to the
        tokens that the tokenizer returns, as in papers, instead of splitting them into clauses.
        """
        card = model.card
        self.name, self.card, self.device = name, card, str(device)
        self.dim, self.resize, self.sampling = card.vision.dim, card.resize, card.sampling
        self.scale = float(model.logit_scale.detach().float().exp())
        self.fingerprint = digest_weights(model.state_dict().items(), card.to_json())
        self._model = model.folded().to(device, dtype).eval()
        self._tokenizer, self._device, self._dtype, self._batch_size = tokenizer, device, dtype, batch_size
        self._int8_cosine, self._lock = int8_cosine, Lock()
        self._compiler, self._cuts_texts = compiler, cuts_texts
        joins = card.merging is not None and bool(card.merging.layers)
        self.encodes_frames_alone = not (joins or card.prompts is not None or card.token_shift)

    @torch.inference_mode()
    def encode_frames(
        self, batch: Sequence[Frames], *, tokens: bool = False, num_layers: int = 0
    ) -> list[SegmentEmbedding]:
        """Encode each segment's frames, which must have the size that ``resize`` produces.

        ``num_layers`` adds the outputs of that many last layers: float32, before any norm, without prompts. With
        merging, a frame has the tokens of the sequence that it is part of. Raise EncoderError if the model has fewer
        layers.
        """
        if num_layers:
            self._check_num_layers(num_layers, self.card.vision.layers)
        encode = self._encode_images if self.encodes_frames_alone else self._encode_videos
        return list(encode(batch, tokens=tokens, num_layers=num_layers))

    def _encode_images(self, batch: Sequence[Frames], *, tokens: bool, num_layers: int) -> Iterator[SegmentEmbedding]:
        """Encode frames independently of each other, in batches across segments."""
        pixels = torch.from_numpy(np.concatenate([frames.pixels for frames in batch]))
        outputs = [
            self._vision(self._normalise(chunk), num_frames=1, tokens=tokens, num_layers=num_layers)
            for chunk in torch.split(pixels, self._batch_size)
        ]
        rows = torch.cat([output.frames[:, 0] for output in outputs])
        tokens_of, sizes_of = (
            torch.cat(parts) if parts else None
            for parts in (
                [output.tokens for output in outputs if output.tokens is not None],
                [output.sizes for output in outputs if output.sizes is not None],
            )
        )
        layers = [join_images([output.layers[layer] for output in outputs]) for layer in range(num_layers)]
        host, start = _Host(rows, tokens_of, sizes_of), 0
        for frames in batch:
            frame_rows = slice(start, start + len(frames))
            embedding = host.embed(frame_rows, frames)
            if layers:
                rank = torch.arange(frame_rows.start, frame_rows.stop)
                embedding = replace(embedding, layers=self._pick_layers(layers, 0, rank, frames))
            yield embedding
            start = frame_rows.stop

    def _encode_videos(self, batch: Sequence[Frames], *, tokens: bool, num_layers: int) -> Iterator[SegmentEmbedding]:
        """Encode segments as videos; consecutive segments of equal length form batches."""
        for num_frames, group in groupby(batch, key=len):
            segments = list(group)
            order = self._order(num_frames)
            chunk_size = max(1, self._batch_size // len(order))
            for start in range(0, len(segments), chunk_size):
                chunk = segments[start : start + chunk_size]
                pixels = torch.from_numpy(np.concatenate([frames.pixels[order] for frames in chunk]))
                output = self._vision(
                    self._normalise(pixels), num_frames=len(order), tokens=tokens, num_layers=num_layers
                )
                rank = torch.tensor([order.index(frame) for frame in range(num_frames)])
                host = _Host(output.frames[:, rank], output.tokens, output.sizes, output.mask)
                for index, frames in enumerate(chunk):
                    embedding = host.embed(index, frames)
                    if output.layers:
                        layers = self._pick_layers(output.layers, index, rank, frames)
                        embedding = replace(embedding, layers=layers)
                    yield embedding

    def _order(self, num_frames: int) -> list[int]:
        """Return the indices of the frames in the order of the input; Prompt Switch interleaves and pads them."""
        prompts = self.card.prompts
        if prompts is None or prompts.spread:
            return list(range(num_frames))
        padded = -(-num_frames // prompts.num_frames) * prompts.num_frames
        return [min(frame, num_frames - 1) for frame in prompts.order(padded)]

    @cached_property
    def _vision(self) -> VisionTower:
        """Return the vision tower, in int8 and compiled if chosen; prepared at first use, as text queries need none."""
        with self._lock:
            if self._int8_cosine is not None:
                self._model.vision = quantize_tower(self._model.vision, self._int8_cosine)
                self._int8_cosine = None
            if self._compiler is not None:
                compile_tower(self._model.vision, self._compiler)
                self._compiler = None
            return self._model.vision

    def _normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        return normalise_pixels(pixels.to(self._device), self.card.mean, self.card.std, self._dtype)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text; one beyond the model's length is split into clauses, with a warning."""
        cut: dict[str, int] = {}
        encode = partial(self._encode_short, cut=cut)
        embeddings = encode_clauses(texts, encode, self._fits, context=self.card.text.context, name=self.name)
        warn_of_cut(cut)
        return embeddings

    def _fits(self, text: str) -> bool:
        return self._cuts_texts or self._is_read_whole(text, self.card.text.context)

    def _is_read_whole(self, text: str, context: int) -> bool:
        """Return whether a text has at most ``context`` tokens, with start and end; a longer row shows any more."""
        return int(self._tokenizer([text], context_length=context + 1).argmax()) < context

    def _encode_short(self, texts: Sequence[str], *, cut: dict[str, int]) -> list[TextEmbedding]:
        ids = self._tokenizer(list(texts)).to(self._device)
        states = self._model.text(ids)[1].float().cpu()
        embeddings = []
        for text, row, end in zip(texts, states, self._find_ends(texts, ids, cut), strict=True):
            units = functional.normalize(row[: end + 1], dim=-1).numpy()
            words = units[1 : max(end, 2)]  # an empty text is represented by its end token
            states = row[: end + 1].numpy().copy()  # a view would keep the whole batch
            embeddings.append(TextEmbedding(text, units[end], words, states))
        return embeddings

    @torch.inference_mode()
    def encode_layers(self, frames: Frames, num_layers: int) -> LayerTokens:
        """Return the last ``num_layers`` layers of a video's frames, as ``encode_frames`` adds them to embeddings.

        Models that encode segments as videos take ``sampling.num_frames`` frames at a time as one video. Raise
        EncoderError if the model has fewer layers.
        """
        self._check_num_layers(num_layers, self.card.vision.layers)
        at_once = len(frames) if self.encodes_frames_alone else self.sampling.num_frames
        cuts = range(at_once, len(frames), at_once)
        segments = list(map(Frames, np.split(frames.pixels, cuts), np.split(frames.times, cuts)))
        embeddings = self.encode_frames(segments, num_layers=num_layers)
        return join_layers([embedding.layers for embedding in embeddings if embedding.layers is not None])

    def _pick_layers(
        self, layers: Sequence[FrameTokens], video: int, rank: Int[torch.Tensor, " frame"], frames: Frames
    ) -> LayerTokens:
        """Return the layers of one video of a batch, in which its frames have the indices ``rank``."""
        tokens = tuple(layer.tokens[video, rank].float().cpu().numpy() for layer in layers)
        if self.card.merging is None:
            return LayerTokens(tokens, frames.times)
        sizes = tuple(layer.sizes[video, rank].cpu().numpy() for layer in layers)
        masks = tuple(layer.mask[video, rank].cpu().numpy() for layer in layers)
        return LayerTokens(tokens, frames.times, sizes, masks)

    @torch.inference_mode()
    def encode_text_layers(self, texts: Sequence[str], num_layers: int) -> list[LayerWords]:
        """Return the outputs of the last ``num_layers`` text layers for each text, from start to end token, in float32.

        Texts are truncated to the model's context length with a warning. Raise EncoderError if the model has fewer
        layers.
        """
        self._check_num_layers(num_layers, self.card.text.layers)
        words, cut = [], dict[str, int]()
        for start in range(0, len(texts), self._batch_size):
            chunk = list(texts[start : start + self._batch_size])
            ids = self._tokenizer(chunk).to(self._device)
            layers = self._model.text.layers(ids, num_layers=num_layers).float().cpu().numpy()
            for index, (text, end) in enumerate(zip(chunk, self._find_ends(chunk, ids, cut), strict=True)):
                words.append(LayerWords(text, layers[:, index, : end + 1].copy()))  # a view would keep the whole batch
        warn_of_cut(cut)
        return words

    def _find_ends(self, texts: Sequence[str], ids: Int[torch.Tensor, "text word"], cut: dict[str, int]) -> list[int]:
        """Return the index of each end token, the highest id; note in ``cut`` how much is read of truncated texts."""
        ends: list[int] = ids.argmax(dim=-1).tolist()
        context = ids.shape[1]
        full = (text for text, end in zip(texts, ends, strict=True) if end == context - 1)
        cut.update((text, context - 2) for text in full if not self._is_read_whole(text, context))
        return ends

    def _check_num_layers(self, num_layers: int, num_available: int) -> None:
        if not 1 <= num_layers <= num_available:
            raise EncoderError(f"num_layers must be in 1..{num_available} for {self.name}, got {num_layers}")


def warn_of_cut(cut: Mapping[str, int]) -> None:
    """Log one warning about truncated texts, given the number of tokens that are read of each."""
    if cut:
        first, num_tokens = next(iter(cut.items()))
        logger.warning("only the first %d tokens are read of: %s", num_tokens, quote_first(first, len(cut) - 1))


class _Host:
    """The outputs of a batch, scaled to unit length and copied from the device once, from which embeddings are made."""

    def __init__(
        self,
        rows: Float[torch.Tensor, "*_row dim"],
        tokens: Float[torch.Tensor, "part token dim"] | None,
        sizes: Float[torch.Tensor, "part token"] | None,
        mask: Bool[torch.Tensor, "part token"] | None = None,
    ) -> None:
        self._rows, self._row_lengths = as_units(rows)
        self._tokens = None if tokens is None else as_units(tokens)
        self._sizes = None if sizes is None else sizes.float().cpu().numpy()
        self._mask = None if mask is None else mask.cpu().numpy()

    def embed(self, batch_index: slice | int, frames: Frames) -> SegmentEmbedding:
        """Return the embedding of a segment, given its frames or its video in the batch."""
        rows, lengths = self._rows[batch_index], self._row_lengths[batch_index]
        if self._tokens is None or self._sizes is None:
            return SegmentEmbedding(average_units(rows), rows, frames.times, frame_lengths=lengths)
        real = ... if self._mask is None else self._mask[batch_index]
        tokens, token_lengths, sizes = (values[batch_index][real] for values in (*self._tokens, self._sizes))
        return SegmentEmbedding(
            average_units(rows),
            rows,
            frames.times,
            tokens.reshape(-1, tokens.shape[-1]),
            sizes.reshape(-1),
            lengths,
            token_lengths.reshape(-1),
        )


def as_units(
    rows: Float[torch.Tensor, "*row dim"],
) -> tuple[Float32[np.ndarray, "*row dim"], Float32[np.ndarray, "*row"]]:
    """Return rows scaled to unit length, and their original lengths."""
    rows = rows.float()
    units = functional.normalize(rows, dim=-1)
    return units.cpu().numpy(), rows.norm(dim=-1).cpu().numpy()
