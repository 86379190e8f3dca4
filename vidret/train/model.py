"""What is trained for retrieval, as one module of named parts: towers, an aligner or a captioner where one is."""

from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Int, UInt8
from torch import Tensor, nn

from vidret.align.aligner import Aligner
from vidret.align.batches import TextBatch, VideoBatch
from vidret.align.concepts import ConceptAligner, ConceptFinder
from vidret.align.files import save_aligner
from vidret.align.levels import Mixing
from vidret.align.selection import KEPT, PatchSelector, ScoreNet
from vidret.align.temporal import TemporalTransformer
from vidret.encode.encoder import normalise_pixels
from vidret.encode.model import ClipModel, save_model
from vidret.encode.prompts import interleave
from vidret.ranking import BESIDE
from vidret.train.captioner import Captioner

Method = Literal["clip", "tempme", "promptswitch", "ucofia", "glscl"]


class RetrievalModel(nn.Module):
    """The towers of one card, and the parts that one method adds.

    The parts are called as the recipes of ``vidret.train.optim`` know them.
    """

    def __init__(
        self, encoder: ClipModel, *, aligner: Aligner | ConceptAligner | None = None, captioner: Captioner | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.aligner, self.captioner = encoder, aligner, captioner

    def encode_videos(
        self, pixels: UInt8[Tensor, "video frame height width 3"], mask: Bool[Tensor, "video frame"]
    ) -> VideoBatch:
        """Look at videos, whose frames come in the order of time; vectors are not scaled to unit length.

        Prompt Switch sees clips that each cover the whole video; where it sees several, frames are dealt to them and
        stay in that order, which no pooling minds.
        """
        card, num_frames = self.encoder.card, pixels.shape[1]
        if card.prompts is not None:
            order = interleave(num_frames, card.prompts.num_frames)
            pixels, mask = pixels[:, order], mask[:, order]
        flat = rearrange(pixels, "video frame height width c -> (video frame) height width c")
        pictures = normalise_pixels(flat, card.mean, card.std, self.encoder.vision.proj.dtype)
        seen = self.encoder.vision(
            pictures,
            num_frames=num_frames,
            mask=None if bool(mask.all()) else mask,
            tokens=isinstance(self.aligner, Aligner),
        )
        merged = card.merging is not None
        return VideoBatch(seen.frames, seen.tokens, mask, seen.mask if merged else None, seen.sizes if merged else None)

    def encode_texts(self, ids: Int[Tensor, "text word"]) -> TextBatch:
        """Read texts: start token, words, end token (the highest id), zeros."""
        sentences, words = self.encoder.text(ids)
        places = torch.arange(words.shape[1], device=ids.device)
        return TextBatch(sentences, words, places <= ids.argmax(dim=-1)[:, None])


def build_model(encoder: ClipModel, method: Method, *, num_words: int = 32, captions: bool = True) -> RetrievalModel:
    """Add to towers what a method trains beside them, initialised as its paper says.

    UCoFiA's and GLSCL's temporal transformers start as the first blocks of the text tower, where their widths agree,
    and all of UCoFiA's matrices as the identity.
    """
    card = encoder.card
    dim, num_frames = card.vision.dim, card.sampling.num_frames
    if method == "ucofia":
        merged = card.merging is not None  # then the tokens that are left are all compared
        num_tokens = num_frames + (_count_tokens(encoder) if merged else num_frames * KEPT)
        aligner = Aligner(
            temporal=_start_temporal(encoder),
            selector=None if merged else PatchSelector(ScoreNet(dim)),
            mixing=Mixing(dim, num_frames=num_frames, num_words=num_words, num_tokens=num_tokens),
            unit_tokens=False,
        )
        with torch.no_grad():
            aligner.logit_scale.copy_(encoder.logit_scale)
        return RetrievalModel(encoder, aligner=aligner)
    if method == "glscl":
        finder = ConceptFinder(dim, heads=max(1, dim // 64), hidden=4 * dim)
        return RetrievalModel(
            encoder, aligner=ConceptAligner(temporal=_start_temporal(encoder), finder=finder, temperature=3.0)
        )
    if method == "promptswitch" and captions:
        return RetrievalModel(encoder, captioner=_start_captioner(encoder))
    return RetrievalModel(encoder)


def save_parts(model: RetrievalModel, path: Path) -> None:
    """Write the towers with their card, and the aligner beside them: what ``vidret index --model`` takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(model.encoder, path)
    if model.aligner is not None:
        save_aligner(model.aligner, path.with_suffix(BESIDE))


@torch.no_grad()
def _count_tokens(encoder: ClipModel) -> int:
    """Count the tokens that merging leaves of a video, by looking at a black one."""
    size, num_frames = encoder.card.vision.image_size, encoder.card.sampling.num_frames
    seen = encoder.vision(torch.zeros(num_frames, 3, size, size), num_frames=num_frames, tokens=True)
    assert seen.tokens is not None
    return int(seen.tokens.shape[1])


def _start_temporal(encoder: ClipModel) -> TemporalTransformer:
    """Build a temporal transformer that starts as the text tower's first blocks and positions, where they fit."""
    text, dim = encoder.text, encoder.card.vision.dim
    layers = min(4, encoder.card.text.layers)
    temporal = TemporalTransformer(dim, layers=layers, num_positions=encoder.card.text.context)
    if encoder.card.text.width == dim and encoder.card.lora_rank == 0:
        with torch.no_grad():
            temporal.positions.copy_(text.positions)
        for own, theirs in zip(temporal.blocks, text.blocks, strict=False):
            own.load_state_dict(theirs.state_dict())
    return temporal


def _start_captioner(encoder: ClipModel) -> Captioner:
    width = encoder.card.text.width
    if width != encoder.card.vision.dim:
        raise ValueError(f"text width must be the joint dim for a captioner, got {width} and {encoder.card.vision.dim}")
    return Captioner(encoder.text.embedding.weight.detach(), heads=max(1, width // 64), hidden=4 * width)
