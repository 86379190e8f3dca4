"""What is trained for retrieval, as one module of named parts: towers, an aligner or a captioner where one is."""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Bool, Int, UInt8
from torch import Tensor, nn

from vidret.align.batches import TextBatch, VideoBatch
from vidret.align.files import save_aligner
from vidret.align.glscl import ConceptAligner
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_temporal import TemporalTransformer
from vidret.data.dataset import RetrievalBatch
from vidret.encode.encoder import normalise_pixels
from vidret.encode.model import ClipModel, save_model
from vidret.encode.prompt_switch import interleave
from vidret.search.ranking import ALIGNER_SUFFIX
from vidret.train.captioner import Captioner
from vidret.train.gather import gather_batch


class RetrievalModel(nn.Module):
    """The towers of one card, and the parts that one method adds.

    The parts are called as the recipes of ``vidret.train.optim`` know them.
    """

    def __init__(
        self,
        encoder: ClipModel,
        *,
        aligner: Aligner | ConceptAligner | None = None,
        captioner: Captioner | None = None,
        with_tokens: bool = False,
    ) -> None:
        """Compose a model.

        Args:
            encoder: The towers.
            aligner: Scores texts against videos; cosines of mean-pooled frames do without.
            captioner: Predicts captions in training.
            with_tokens: Whether videos are encoded with the tokens of their frames.
        """
        super().__init__()
        self.encoder, self.aligner, self.captioner = encoder, aligner, captioner
        self._with_tokens = with_tokens

    def encode(self, batch: RetrievalBatch) -> tuple[TextBatch, VideoBatch]:
        """Encode the texts and the videos of a batch; vectors are not scaled to unit length."""
        videos = self.encode_videos(batch.pixels, batch.frame_mask)
        return self.encode_texts(batch.ids), videos

    def encode_all(self, batch: RetrievalBatch) -> tuple[TextBatch, VideoBatch]:
        """Encode the batches of all processes, and return them in the precision of what follows the towers."""
        texts, videos = self.encode(batch)
        return gather_batch(texts.to(self.head_dtype)), gather_batch(videos.to(self.head_dtype))

    @property
    def head_dtype(self) -> torch.dtype:
        """The precision of what follows the towers: that of the aligner's weights, or float32."""
        return torch.float32 if self.aligner is None else next(self.aligner.parameters()).dtype

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
            tokens=self._with_tokens,
        )
        merged = card.merging is not None
        return VideoBatch(seen.frames, seen.tokens, mask, seen.mask if merged else None, seen.sizes if merged else None)

    def encode_texts(self, ids: Int[Tensor, "text word"]) -> TextBatch:
        """Read texts: start token, words, end token (the highest id), zeros."""
        sentences, words = self.encoder.text(ids)
        places = torch.arange(words.shape[1], device=ids.device)
        return TextBatch(sentences, words, places <= ids.argmax(dim=-1)[:, None])


def save_parts(model: RetrievalModel, path: Path) -> None:
    """Write the towers with their card, and the aligner beside them: what ``vidret index --model`` takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(model.encoder, path)
    if model.aligner is not None:
        save_aligner(model.aligner, path.with_suffix(ALIGNER_SUFFIX))


def start_temporal(encoder: ClipModel) -> TemporalTransformer:
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
