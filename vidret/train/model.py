"""The model trained for retrieval: towers, a method's aligner or captioner, and the encoding and scoring of batches.

Batches can be encoded in chunks (GradCache). A contrastive loss needs the vectors of all pairs at once, but not the
activations of the towers. So only vectors are kept, and the backward pass encodes one chunk after another again.
Gradients accumulated over small batches would take as little memory, but contrast each pair with few others.

Reference: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", section 3.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vidret.align.batches import TextBatch, VideoBatch, map_fields
from vidret.align.glscl import ConceptAligner, ConceptScores, ConceptVideos
from vidret.align.prepared import PreparedVideos
from vidret.align.ucofia import Aligner
from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip.model import ClipModel
from vidret.encode.encoder import normalise_pixels
from vidret.layers import TemporalTransformer, pool_frames
from vidret.train.captioner import Captioner
from vidret.train.gather import gather
from vidret.train.losses import find_same_videos, promote_half

Vectors = tuple[Tensor | None, ...]
Prepared = VideoBatch | PreparedVideos | ConceptVideos


class RetrievalModel(nn.Module):
    """The towers of a card, and the modules that a method adds, under the names that ``vidret.train.optim`` expects.

    Attributes:
        chunk_size: Number of videos, or texts, that training encodes at a time; 0 for all.
    """

    def __init__(
        self,
        encoder: ClipModel,
        *,
        aligner: Aligner | ConceptAligner | None = None,
        captioner: Captioner | None = None,
        with_tokens: bool = False,
        own_scale: bool = False,
    ) -> None:
        """Compose a model.

        Args:
            encoder: The towers.
            aligner: Similarity of texts and videos; None for cosines of sentences and mean-pooled frames.
            captioner: Captioner for an auxiliary loss.
            with_tokens: Whether videos are encoded with the tokens of their frames.
            own_scale: Whether the scale of cosines is the aligner's own, not that of the towers.
        """
        super().__init__()
        self.chunk_size = 0
        self.encoder, self.aligner, self.captioner = encoder, aligner, captioner
        self._with_tokens, self._own_scale = with_tokens, own_scale

    @property
    def logit_scale(self) -> Tensor:
        """Return the logarithm of the factor of cosines."""
        return cast(Aligner, self.aligner).logit_scale if self._own_scale else self.encoder.logit_scale

    def encode(self, batch: RetrievalBatch) -> tuple[TextBatch, VideoBatch]:
        """Return the encoded texts and videos of a batch; vectors are not normalised."""
        videos = self.encode_videos(batch.pixels, batch.frame_mask)
        return self.encode_texts(batch.ids), videos

    def gather(self, texts: TextBatch, videos: VideoBatch) -> tuple[TextBatch, VideoBatch]:
        """Return the texts and videos of all processes, in the precision of the modules after the towers."""
        return map_fields(texts.to(self.head_dtype), gather), map_fields(videos.to(self.head_dtype), gather)

    @property
    def head_dtype(self) -> torch.dtype:
        """Return the precision of the modules after the towers: that of the aligner's weights, or float32."""
        weights = () if self.aligner is None else self.aligner.parameters()
        return next((weight.dtype for weight in weights), torch.float32)

    def encode_videos(
        self, pixels: UInt8[Tensor, "video frame height width 3"], mask: Bool[Tensor, "video frame"]
    ) -> VideoBatch:
        """Encode videos, whose frames are in temporal order; vectors are not normalised.

        Prompt Switch encodes clips that each cover the whole video. If there are several clips, the frames are
        interleaved among them and returned in that order, which does not affect pooling.
        """
        prompts = self.encoder.card.prompts
        if prompts is not None:
            order = prompts.order(pixels.shape[1])
            pixels, mask = pixels[:, order], mask[:, order]
        frames, tokens, token_mask, sizes = self._encode(self._see, pixels, None if bool(mask.all()) else mask)
        return VideoBatch(cast(Tensor, frames), tokens, mask, token_mask, sizes)

    def encode_texts(self, ids: Int[Tensor, "text word"]) -> TextBatch:
        """Encode texts: start token, words, end token (the highest id), zeros."""
        ends = ids.argmax(dim=-1)
        sentences, words = cast(tuple[Tensor, Tensor], self._encode(self._read, ids[:, : int(ends.max()) + 1]))
        positions = torch.arange(words.shape[1], device=ids.device)
        return TextBatch(sentences, words, positions <= ends[:, None])

    @torch.no_grad()
    def prepare(self, videos: VideoBatch) -> Prepared:
        """Return the parts of encoded videos that scores need: only some of their tokens, which may be thousands."""
        with torch.autocast(videos.frames.device.type, enabled=False):
            videos = videos.to(self.head_dtype)
            return videos if self.aligner is None else self.aligner.prepare(videos)

    @torch.no_grad()
    def score(
        self, texts: TextBatch, videos: Prepared, aligner: nn.Module | None = None
    ) -> Float[Tensor, "text video"]:
        """Return the scores of all texts against all videos, as a search with the exported model ranks them.

        ``aligner`` is the one that prepared the videos, if that is not the current one.
        """
        texts = texts.to(self.head_dtype)
        if isinstance(videos, VideoBatch):
            return functional.normalize(texts.sentences, dim=-1) @ pool_frames(videos.frames, videos.frame_mask).T
        scores = cast(Any, aligner or self.aligner).score(texts, videos)
        return scores.total if isinstance(scores, ConceptScores) else scores.mean

    def _encode(self, encode: Callable[..., Vectors], *inputs: Tensor | None) -> Vectors:
        """Return the vectors of rows, encoded in chunks in training if there is a ``chunk_size``."""
        size, num_rows = self.chunk_size, len(cast(Tensor, inputs[0]))
        if not (0 < size < num_rows and self.training and torch.is_grad_enabled()):
            return encode(*inputs)
        return encode_chunks(encode, *inputs, size=size)

    def _see(
        self, pixels: UInt8[Tensor, "video frame height width 3"], mask: Bool[Tensor, "video frame"] | None
    ) -> Vectors:
        """Return the frames of videos, and their tokens, mask and sizes if the aligner reads them."""
        card = self.encoder.card
        flat = rearrange(pixels, "video frame height width c -> (video frame) height width c")
        images = normalise_pixels(flat, card.mean, card.std, self.encoder.vision.proj.dtype)
        seen = self.encoder.vision(images, num_frames=pixels.shape[1], mask=mask, tokens=self._with_tokens)
        return seen.frames, seen.tokens, seen.mask, None if card.merging is None else seen.sizes

    def _read(self, ids: Int[Tensor, "text word"]) -> Vectors:
        """Return the sentences and the words of texts, with zeros after the last end token."""
        sentences, words = self.encoder.text(ids)
        return sentences, functional.pad(words, (0, 0, 0, ids.shape[1] - words.shape[1]))


def encode_chunks(encode: Callable[..., Vectors], *inputs: Tensor | None, size: int) -> Vectors:
    """Return the tensors of ``encode`` for all rows, ``size`` rows at a time; dropout is the same in both passes.

    Args:
        encode: Returns tensors for the rows of ``inputs``, or None; rows are independent.
        inputs: Tensors with one row per item, or None.
        size: Maximum number of rows at a time, at least 1.
    """
    pieces = [() if rows is None else torch.split(rows, size) for rows in inputs]
    chunks: list[Vectors] = [
        checkpoint(encode, *(piece[index] if piece else None for piece in pieces), use_reentrant=False)
        for index in range(max(map(len, pieces)))
    ]
    return tuple(None if rows[0] is None else torch.cat(rows) for rows in zip(*chunks, strict=True))


def start_temporal(encoder: ClipModel) -> TemporalTransformer:
    """Return a temporal transformer, initialised with the text tower's first blocks and positions if widths match."""
    text, dim = encoder.text, encoder.card.vision.dim
    layers = min(4, encoder.card.text.layers)
    temporal = TemporalTransformer(dim, layers=layers, num_positions=encoder.card.text.context)
    if encoder.card.text.width == dim:
        with torch.no_grad():
            temporal.positions.copy_(text.positions)
        for block, text_block in zip(temporal.blocks, text.blocks, strict=False):
            weights = text_block.state_dict()
            block.load_state_dict({name: weight for name, weight in weights.items() if ".lora." not in name})
    return temporal


def gather_pairs(texts: TextBatch, videos: VideoBatch) -> tuple[Float[Tensor, "pair dim"], Float[Tensor, "pair dim"]]:
    """Return the sentences and the mean frames of all processes, which searches use to find candidates."""
    with torch.autocast(videos.frames.device.type, enabled=False):
        pooled = pool_frames(promote_half(videos.frames), videos.frame_mask)
        return gather(promote_half(texts.sentences)), gather(pooled)


def same_videos(batch: RetrievalBatch) -> Bool[Tensor, "pair pair"]:
    """Return True where two pairs of all processes have the same video, and so are not negatives of each other."""
    return find_same_videos(gather(batch.videos))
