"""Training for retrieval: a method's model, losses and recipe, and the recall that a checkpoint is chosen by."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor

from vidret.align.batches import TextBatch, VideoBatch
from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip import load_towers
from vidret.encode.model import Card, ClipModel
from vidret.encode.prompt_switch import PromptShape
from vidret.encode.tempme import MergeSchedule
from vidret.encode.text import TextShape
from vidret.encode.vision import VisionShape
from vidret.errors import VidretError
from vidret.metrics.retrieval import evaluate
from vidret.train import optim
from vidret.train.gather import gather_objects
from vidret.train.methods import load_method
from vidret.train.model import save_parts
from vidret.types import Sampling


class RetrievalModule(lightning.LightningModule):
    """One of the methods in training; ``val/R@1`` (text to video) is what a checkpoint is chosen by."""

    def __init__(
        self,
        method: str,
        *,
        weights: str | None = None,
        vision: VisionShape | None = None,
        text: TextShape | None = None,
        num_frames: int = 12,
        fps: float = 1.0,
        num_words: int | None = None,
        merging: MergeSchedule | None = None,
        prompts: PromptShape | None = None,
        lora_rank: int = 0,
        train_all: bool = False,
        lr: float | None = None,
        warm_up: float = 0.1,
        captions: bool | None = None,
        mixup_weight: float | None = None,
        beta: float | None = None,
        options: dict[str, Any] | None = None,
        checkpointing: bool = False,
        compiled: str | None = None,
        seed: int = 0,
        out: str | None = None,
    ) -> None:
        """Build the model.

        Args:
            method: The name of a method, such as ``clip``; see ``vidret.train.methods``.
            weights: An open_clip model or a file, as ``load_encoder`` takes them; random towers without.
            vision: The vision tower of random towers.
            text: Their text tower.
            num_frames: Frames of a video that the method is made for: what validation shows and an index looks at.
            fps: Frames a second at which an index made with the result looks at videos.
            num_words: Length of texts that UCoFiA's matrices are made for; 32 unless given.
            merging: TempMe's schedule.
            prompts: Prompt Switch's cube.
            lora_rank: Rank of TempMe's updates.
            train_all: Train every weight at one rate, whatever the method's recipe says; for towers from nothing.
            lr: The recipe's rate unless given.
            warm_up: Share of all steps in which the rate rises.
            captions: Whether Prompt Switch's captioner takes part; it does unless given.
            mixup_weight: Weight of geodesic mixtures as hard negatives (m2-Mix); unless given they are left out.
            beta: GLSCL's weight of consistency, which belongs to a batch size; 0.005 unless given.
            options: Further settings of the method, by name.
            checkpointing: Compute the vision tower's layers again on the way back, which saves memory.
            compiled: What ``torch.compile`` makes the towers with, such as ``inductor``; not compiled unless given.
            seed: Of what is drawn for mixtures.
            out: Where the chosen model is written at the end, as a .safetensors file with its card.

        Raises:
            VidretError: The method is unknown or has no such option, or neither weights nor shapes are given, or they
                do not fit it.
        """
        super().__init__()
        shared = {"num_words": num_words, "captions": captions, "mixup_weight": mixup_weight, "beta": beta}
        self.method, self.out = load_method(method, shared=shared, options=options or {}), out
        plain = None if weights is None else load_towers(weights)
        added: dict[str, Any] = {"merging": merging, "prompts": prompts, "lora_rank": lora_rank}
        added |= {"method": method, "token_shift": False, "sampling": Sampling(num_frames, fps)}
        card = replace(_start_card(plain, vision, text), **added)
        self.model = self.method.build(card, partial(_load_towers, plain=plain))
        encoder = self.model.encoder
        encoder.vision.checkpointing = checkpointing
        if compiled is not None:
            encoder.vision.compile(backend=compiled)
            encoder.text.compile(backend=compiled)
        recipe = self.method.recipe
        self._recipe, self._warm_up = recipe.for_all(lr) if train_all else recipe.at_rate(lr), warm_up
        optim.freeze(self.model, self._recipe.rule)
        self._generator = torch.Generator().manual_seed(seed)
        self._seen: list[dict[str, Tensor]] = []

    # Training

    def training_step(self, batch: RetrievalBatch, _number: int) -> Tensor:
        """Give the loss of a batch, gathered over processes."""
        terms = self.method.losses(self.model, batch, self._generator)
        loss = torch.stack(list(terms.values())).sum()
        self.log_dict({f"loss/{name}": term.detach() for name, term in terms.items()}, batch_size=len(batch.videos))
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch.videos))
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and keep the learned scale in its bounds."""
        super().optimizer_step(*args, **kwargs)
        for name, weight in self.model.named_parameters():
            if name.endswith("logit_scale"):
                optim.clamp_scale(weight)

    def configure_optimizers(self) -> Any:
        """Give the recipe's optimiser and schedule."""
        optimizer, schedule = self._recipe.optimizer(
            self.model,
            self._recipe.rule,
            num_steps=int(self.trainer.estimated_stepping_batches),
            warm_up=self._warm_up,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Measuring

    def validation_step(self, batch: RetrievalBatch, _number: int) -> None:
        """Keep what the scores are made of; every process has its own videos, none twice.

        Raises:
            VidretError: Videos have another number of frames than an index made with the model looks at.
        """
        shown, exported = batch.pixels.shape[1], self.model.encoder.card.sampling.num_frames
        if shown != exported:
            raise VidretError(f"num_frames of the model must be that of validation, {shown}, got {exported}")
        videos = self.model.encode_videos(batch.pixels, batch.frame_mask)
        texts = self.model.encode_texts(batch.ids) if len(batch.ids) else None
        seen: dict[str, Tensor | None] = {**videos._asdict(), "videos": batch.videos}
        if texts is not None:
            seen |= {"sentences": texts.sentences, "words": texts.words, "word_mask": texts.mask}
            seen["text_videos"] = batch.text_videos
        kept = {name: part for name, part in seen.items() if part is not None}
        self._seen.append(
            {name: part.float().cpu() if part.is_floating_point() else part.cpu() for name, part in kept.items()}
        )

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Score all texts against all videos, and log recalls."""
        self._measure("val")

    def on_test_epoch_end(self) -> None:
        """Score all texts against all videos, and log recalls."""
        self._measure("test")

    def _measure(self, stage: str) -> None:
        parts = gather_objects(self._seen)
        self._seen = []
        if not parts:
            return
        scores, truth = self.score(parts)
        for row in evaluate(scores, truth):
            facts = row.metrics.summary
            name = "" if row.direction == "t2v" else "v2t/"
            numbers = {f"{stage}/{name}R@{k}": value for k, value in facts.recalls.items()}
            self.log_dict(numbers | {f"{stage}/{name}MnR": facts.mean_rank}, rank_zero_only=True)

    @torch.no_grad()
    def score(self, parts: list[dict[str, Tensor]]) -> tuple[np.ndarray, np.ndarray]:
        """Give the matrix of scores of what validation kept, and which video each text is of."""
        device = self.device
        frames, mask = (_pad_all([part[name] for part in parts]).to(device) for name in ("frames", "frame_mask"))
        with_texts = [part for part in parts if "sentences" in part]
        sentences = torch.cat([part["sentences"] for part in with_texts]).to(device)
        words, word_mask = (_pad_all([part[name] for part in with_texts]).to(device) for name in ("words", "word_mask"))
        more = {
            name: _pad_all([part[name] for part in parts]).to(device)
            for name in ("tokens", "token_mask", "sizes")
            if name in parts[0]
        }
        dtype = self.model.head_dtype
        texts, seen = TextBatch(sentences, words, word_mask), VideoBatch(frames, frame_mask=mask, **more)
        scores = self.method.score(self.model, texts.to(dtype), seen.to(dtype))
        videos = torch.cat([part["videos"] for part in parts]).tolist()
        place = {video: number for number, video in enumerate(videos)}
        truth = [place[video] for part in with_texts for video in part["text_videos"].tolist()]
        return scores.float().cpu().numpy(), np.array(truth)

    # Keeping

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of what is drawn, too, so that a resumed run draws the same."""
        checkpoint["generator"] = self._generator.get_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on drawing where the run stopped."""
        self._generator.set_state(checkpoint["generator"].cpu())

    def export(self, path: Path) -> None:
        """Write the model as ``vidret index --model`` takes it."""
        save_parts(self.model, path)


def _start_card(plain: ClipModel | None, vision: VisionShape | None, text: TextShape | None) -> Card:
    """Return the card of pretrained towers, or of random ones of these shapes."""
    if plain is not None:
        return plain.card
    if vision is None or text is None:
        raise VidretError("weights or both of vision and text must be given, got none")
    return Card("own", "own", vision, text)


def _load_towers(card: Card, plain: ClipModel | None) -> ClipModel:
    """Load the towers of a card: pretrained ones with what the card adds at its start, or random ones."""
    model = ClipModel(card)
    if plain is None:
        return model
    missing = model.load_state_dict(plain.state_dict(), strict=False)
    if missing.unexpected_keys:
        raise VidretError(f"weights must be of plain towers, got {', '.join(missing.unexpected_keys[:3])}")
    return model


def _pad_all(parts: list[Tensor]) -> Tensor:
    """Join batches whose second axis differs, zeros (False) behind."""
    longest = max(part.shape[1] for part in parts)
    padded = []
    for part in parts:
        whole = part.new_zeros(part.shape[0], longest, *part.shape[2:])
        whole[:, : part.shape[1]] = part
        padded.append(whole)
    return torch.cat(padded)
