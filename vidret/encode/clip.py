"""CLIP with our own towers: plain, with TempMe's merging, with Prompt Switch, with token shift."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from einops import rearrange
from jaxtyping import Float32, Int, UInt8
from torch.nn import functional

from vidret.encode.encoder import WHOLE, Encoder, choose_dtype, digest_weights, normalise_pixels
from vidret.encode.foreign import ForeignEncoder
from vidret.encode.hub import load_open_clip, read_resize
from vidret.encode.model import Card, ClipModel, load_model, read_card
from vidret.encode.outputs import FrameTokens, join_layers
from vidret.encode.prompt_switch import interleave
from vidret.encode.text import TextShape
from vidret.encode.vision import VisionShape
from vidret.encode.weights import from_open_clip
from vidret.errors import EncoderError
from vidret.types import Frames, LayerTokens, LayerWords, Sampling, SegmentEmbedding, TextEmbedding

logger = logging.getLogger(__name__)


class ClipEncoder:
    """A CLIP model of our own towers: a segment is the mean of its frames' class embeddings.

    Its tokens are the patches that are left, with the number of original ones that each stands for. Attributes as in
    ``Encoder``, and ``device``. The model is kept in ``dtype``, low-rank updates folded in; vectors come out as float32
    of unit length.

    A model that looks over time takes each segment as one video. For Prompt Switch, a segment that makes no whole clips
    is filled up with its last frame, which is dropped again afterwards, and every clip covers the whole segment.
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
    ) -> None:
        """Take a model with its weights loaded, and the tokenizer that belongs to it; ``batch_size`` in frames."""
        card = model.card
        self.name, self.card, self.device = name, card, str(device)
        self.dim, self.resize, self.sampling = card.vision.dim, card.resize, card.sampling
        self.fingerprint = digest_weights(model.state_dict().items(), card.to_json())
        self._model = model.folded().to(device, dtype).eval()
        self._tokenizer, self._device, self._dtype, self._batch_size = tokenizer, device, dtype, batch_size
        self._over_time = card.merging is not None or card.prompts is not None or card.token_shift

    @torch.inference_mode()
    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each stretch of video; its frames must have the size that ``resize`` gives."""
        encode = self._encode_videos if self._over_time else self._encode_pictures
        return list(encode(batch, tokens=tokens))

    def _encode_pictures(self, batch: Sequence[Frames], *, tokens: bool) -> Iterator[SegmentEmbedding]:
        """Encode frames that do not see each other, whichever video they are of, in batches of one size."""
        pixels = torch.from_numpy(np.concatenate([frames.pixels for frames in batch]))
        outputs = [
            self._model.vision(self._standardise(part), num_frames=1, tokens=tokens)
            for part in torch.split(pixels, self._batch_size)
        ]
        lengths = [len(frames) for frames in batch]
        rows = torch.split(torch.cat([output.frames[:, 0] for output in outputs]), lengths)
        patches = [output.tokens for output in outputs if output.tokens is not None]
        parts = torch.split(torch.cat(patches), lengths) if patches else [None] * len(batch)
        for frames, row, part in zip(batch, rows, parts, strict=True):
            flat = None if part is None else rearrange(part, "frame token dim -> (frame token) dim")
            yield as_embedding(row, frames, flat, None if flat is None else torch.ones(len(flat)))

    def _encode_videos(self, batch: Sequence[Frames], *, tokens: bool) -> Iterator[SegmentEmbedding]:
        """Encode segments as videos; neighbours of one length together."""
        for num_frames, group in groupby(batch, key=len):
            segments = list(group)
            order = self._order(num_frames)
            at_once = max(1, self._batch_size // len(order))
            for start in range(0, len(segments), at_once):
                part = segments[start : start + at_once]
                pixels = torch.from_numpy(np.concatenate([frames.pixels[order] for frames in part]))
                seen = self._model.vision(self._standardise(pixels), num_frames=len(order), tokens=tokens)
                places = torch.tensor([order.index(frame) for frame in range(num_frames)])
                for number, frames in enumerate(part):
                    real = None if seen.mask is None else seen.mask[number]
                    left, sizes = (
                        None if whole is None else whole[number][real] for whole in (seen.tokens, seen.sizes)
                    )
                    yield as_embedding(seen.frames[number, places], frames, left, sizes)

    def _order(self, num_frames: int) -> list[int]:
        """Say which frames are fed, in which order."""
        prompts = self.card.prompts
        if prompts is None:
            return list(range(num_frames))
        padded = -(-num_frames // prompts.num_frames) * prompts.num_frames
        return [min(frame, num_frames - 1) for frame in interleave(padded, prompts.num_frames)]

    def _standardise(self, pixels: torch.Tensor) -> torch.Tensor:
        return normalise_pixels(pixels.to(self._device), self.card.mean, self.card.std, self._dtype)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text; what lies beyond the model's context length is cut off."""
        ids = self._tokenizer(list(texts)).to(self._device)
        states = self._model.text(ids)[1].float().cpu()
        embeddings = []
        for text, row, end in zip(texts, states, find_ends(texts, ids), strict=True):
            units = functional.normalize(row[: end + 1], dim=-1).numpy()
            words = units[1 : max(end, 2)]  # an empty text has its end token
            embeddings.append(TextEmbedding(text, units[end], words, row[: end + 1].numpy()))
        return embeddings

    @torch.inference_mode()
    def encode_layers(self, frames: Frames, num_layers: int) -> LayerTokens:
        """Give what the last ``num_layers`` vision layers hold of a video's frames, in float32: no norm, no projection.

        A model that looks over time takes ``sampling.num_frames`` frames at a time as one video, as ``encode_frames``
        does with a segment; where it merges, a frame has the tokens of the sequence that it was joined into. Prompts
        are left out.

        Raises:
            EncoderError: The model has fewer layers.
        """
        self._check_num_layers(num_layers, self.card.vision.layers)
        if self._over_time:
            places = range(self.sampling.num_frames, len(frames), self.sampling.num_frames)
            segments = map(Frames, np.split(frames.pixels, places), np.split(frames.times, places))
            return join_layers([self._look_over_time(segment, num_layers) for segment in segments])
        vision = self.card.vision
        layers = np.empty((num_layers, len(frames), 1 + vision.num_patches, vision.width), dtype=np.float32)
        for start in range(0, len(frames), self._batch_size):
            part = slice(start, start + self._batch_size)
            for layer, seen in zip(layers, self._look(frames.pixels[part], 1, num_layers), strict=True):
                layer[part] = seen.tokens[:, 0].float().cpu().numpy()
        return LayerTokens(tuple(layers), frames.times)

    def _look_over_time(self, frames: Frames, num_layers: int) -> LayerTokens:
        """Give the layers of a segment that is one video; frames that only fill it up are dropped again."""
        order = self._order(len(frames))
        places = [order.index(frame) for frame in range(len(frames))]
        seen = self._look(frames.pixels[order], len(order), num_layers)
        tokens = tuple(layer.tokens[0, places].float().cpu().numpy() for layer in seen)
        if self.card.merging is None:
            return LayerTokens(tokens, frames.times)
        sizes = tuple(layer.sizes[0, places].cpu().numpy() for layer in seen)
        return LayerTokens(tokens, frames.times, sizes, tuple(layer.mask[0, places].cpu().numpy() for layer in seen))

    def _look(
        self, pixels: UInt8[np.ndarray, "frame height width 3"], num_frames: int, num_layers: int
    ) -> list[FrameTokens]:
        """Give the tokens of videos' frames after each of the last layers."""
        pictures = self._standardise(torch.tensor(pixels))
        layers = self._model.vision.layers(pictures, num_frames=num_frames, num_layers=num_layers)
        return [layer.by_frame() for layer in layers]

    @torch.inference_mode()
    def encode_text_layers(self, texts: Sequence[str], num_layers: int) -> list[LayerWords]:
        """Give what the last ``num_layers`` text layers hold of each text, in float32: from start token to end token.

        What lies beyond the model's context length is cut off.

        Raises:
            EncoderError: The model has fewer layers.
        """
        self._check_num_layers(num_layers, self.card.text.layers)
        found = []
        for start in range(0, len(texts), self._batch_size):
            part = list(texts[start : start + self._batch_size])
            ids = self._tokenizer(part).to(self._device)
            layers = self._model.text.layers(ids, num_layers=num_layers).float().cpu().numpy()
            for number, (text, end) in enumerate(zip(part, find_ends(part, ids), strict=True)):
                found.append(LayerWords(text, layers[:, number, : end + 1].copy()))  # a view would keep the whole batch
        return found

    def _check_num_layers(self, num_layers: int, own: int) -> None:
        if not 1 <= num_layers <= own:
            raise EncoderError(f"num_layers must be in 1..{own} for {self.name}, got {num_layers}")


def find_ends(texts: Sequence[str], ids: Int[torch.Tensor, "text word"]) -> list[int]:
    """Find each text's end token, which has the highest id; say of which texts the end was cut off."""
    ends: list[int] = ids.argmax(dim=-1).tolist()
    for text, end in zip(texts, ends, strict=True):
        if end == ids.shape[1] - 1:
            logger.warning("only the first %d tokens are read of: %.60s...", end - 1, text)
    return ends


def as_embedding(
    rows: torch.Tensor, frames: Frames, tokens: torch.Tensor | None, sizes: torch.Tensor | None
) -> SegmentEmbedding:
    """Scale frames (frame, dim) and tokens (token, dim) to unit length; the segment is the mean of its frames."""
    units, lengths = as_units(rows)
    video = functional.normalize(torch.from_numpy(units).mean(0), dim=0).numpy()
    if tokens is None or sizes is None:
        return SegmentEmbedding(video, units, frames.times, frame_lengths=lengths)
    parts, token_lengths = as_units(tokens)
    return SegmentEmbedding(video, units, frames.times, parts, sizes.float().cpu().numpy(), lengths, token_lengths)


def as_units(
    rows: torch.Tensor,
) -> tuple[Float32[np.ndarray, "row dim"], Float32[np.ndarray, " row"]]:
    """Scale rows to unit length; give what their lengths were, too."""
    rows = rows.float()
    units = functional.normalize(rows, dim=-1)
    return units.cpu().numpy(), rows.norm(dim=-1).cpu().numpy()


def load_clip(name: str, *, device: torch.device, precision: str = "auto", whole: bool = False) -> Encoder:
    """Load a model by the names that ``load_encoder`` describes: our own file, or whatever open_clip knows.

    Raises:
        EncoderError: The name is unknown; the weights are not here and the hub cannot be reached; they do not fit.
    """
    dtype, suffix = choose_dtype(precision, device), WHOLE if whole else ""
    path = Path(name).absolute()
    card = read_card(path) if path.is_file() else None
    if card is not None:
        tokenizer = open_clip.SimpleTokenizer(context_length=card.text.context)
        if card.text.vocabulary != tokenizer.vocab_size:
            size, own = tokenizer.vocab_size, card.text.vocabulary
            raise EncoderError(f"{path}: vocabulary must be CLIP's {size} word pieces, got {own}")
        model = load_model(path, replace(card, sampling=replace(card.sampling, whole=whole)))
        return ClipEncoder(f"{path}{suffix}", model, tokenizer, device=device, dtype=dtype)
    source, other, tokenizer = load_open_clip(name)
    card, full_name = derive_card(other, source.architecture), source.name + suffix
    if card is None or not isinstance(tokenizer, open_clip.SimpleTokenizer):
        sampling = Sampling(whole=whole)
        return ForeignEncoder(full_name, other, tokenizer, device=device, dtype=dtype, sampling=sampling)
    card = replace(card, sampling=replace(card.sampling, whole=whole))
    return ClipEncoder(full_name, from_open_clip(other.state_dict(), card), tokenizer, device=device, dtype=dtype)


def load_towers(name: str) -> ClipModel:
    """Load the towers of a model alone, in float32, low-rank updates apart: where training starts.

    Raises:
        EncoderError: As ``load_clip``; or the model is of another shape of blocks than CLIP's own.
    """
    path = Path(name).absolute()
    card = read_card(path) if path.is_file() else None
    if card is not None:
        return load_model(path, card)
    source, other, _ = load_open_clip(name)
    card = derive_card(other, source.architecture)
    if card is None:
        raise EncoderError(f"{name}: must be a ViT with the blocks of CLIP's own to be trained, got another")
    return from_open_clip(other.float().state_dict(), card)


def derive_card(model: Any, architecture: str) -> Card | None:
    """Write the card of an open_clip model; None when it is not a ViT with the block shape of CLIP's own."""
    visual = model.visual
    plain = type(model) is open_clip.CLIP and type(visual) is open_clip.transformer.VisionTransformer
    if not plain or visual.attn_pool is not None or visual.proj is None or visual.pool_type != "tok":
        return None
    picture = open_clip.get_model_preprocess_cfg(model)
    resize = read_resize(architecture, picture)
    vision_block, text_block = visual.transformer.resblocks[0], model.transformer.resblocks[0]
    ours = all(type(block) is open_clip.transformer.ResidualAttentionBlock for block in (vision_block, text_block))
    scaled = any(hasattr(block.ls_1, "gamma") for block in (vision_block, text_block))
    odd = visual.final_ln_after_pool or not hasattr(visual.ln_pre, "weight") or visual.conv1.bias is not None
    if not ours or scaled or odd or resize.squash or model.text_pool_type != "argmax":
        return None
    quick = [type(block.mlp.gelu) is open_clip.transformer.QuickGELU for block in (vision_block, text_block)]
    hidden = [block.mlp.c_fc.out_features / block.mlp.c_fc.in_features for block in (vision_block, text_block)]
    width, text_width = visual.conv1.out_channels, model.token_embedding.embedding_dim
    vision = VisionShape(
        image_size=resize.crop,
        patch=visual.conv1.kernel_size[0],
        width=width,
        layers=len(visual.transformer.resblocks),
        heads=vision_block.attn.num_heads,
        dim=visual.proj.shape[1],
        quick_gelu=quick[0],
        mlp_ratio=hidden[0],
    )
    text = TextShape(
        context=model.positional_embedding.shape[0],
        vocabulary=model.token_embedding.num_embeddings,
        width=text_width,
        layers=len(model.transformer.resblocks),
        heads=text_block.attn.num_heads,
        dim=model.text_projection.shape[1],
        quick_gelu=quick[1],
        mlp_ratio=hidden[1],
    )
    mean, std = tuple(picture["mean"]), tuple(picture["std"])
    return Card("clip", architecture, vision, text, mean=mean, std=std, interpolation=resize.interpolation)
