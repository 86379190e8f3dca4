"""Training for retrieval: the model, losses and recipe of a method, as a Lightning module."""

import copy
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, float32
from torch.nn.utils.rnn import pad_sequence

from vidret.align.batches import Fields, move_batch
from vidret.align.files import describe_aligner
from vidret.align.glscl import ConceptAligner
from vidret.align.ucofia import Aligner
from vidret.data.dataset import RetrievalBatch
from vidret.data.frames import SamplingKind
from vidret.data.module import RetrievalData
from vidret.devices import CPU
from vidret.encode.clip.model import Card, ClipModel, describe_towers, read_card
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.text import TextShape
from vidret.encode.clip.vision import VisionShape, compile_tower
from vidret.encode.families.clip import load_towers
from vidret.errors import VidretError
from vidret.metrics.retrieval import CUTS, evaluate
from vidret.model_files import ALIGNER, TrainedOn, read_part
from vidret.train import optim
from vidret.train.losses import Terms
from vidret.train.methods import load_method
from vidret.train.model import RetrievalModel
from vidret.train.module import ModelDescription, TrainedModule, check_rates
from vidret.train.muon import with_muon
from vidret.types import Sampling

logger = logging.getLogger(__name__)


class RetrievalModule(TrainedModule):
    """A method of training for retrieval. Checkpoints are selected by ``val/R@1`` (text to video).

    Args:
        method: Name of a method, such as ``clip``; see ``vidret.train.methods``.
        weights: Pretrained towers: an open_clip name or a file, as for ``load_encoder``; None for random towers. The
            aligner of a file is loaded, too, if it fits the method.
        keep: Share of these weights in those of the exported towers (WiSE-FT), which then keep more of what they knew;
            checkpoints are selected, and go on, without it.
        vision: Shape of a random vision tower.
        text: Shape of a random text tower.
        num_frames: Frames per video, in validation and in an index made with the exported model.
        fps: Frames per second of an index made with the exported model.
        sampling: Which frames of whole videos an index made with the exported model has; as the data module has it.
        num_segments: Segments per video, for ``segments``.
        merging: TempMe's schedule.
        prompts: Prompt Switch's prompts.
        lora_rank: Rank of TempMe's updates.
        train_all: Whether to train every weight at one rate instead of by the recipe, for random towers.
        lr: Learning rate; default: the recipe's.
        matrix_lr: Learning rate of the matrices of the towers' blocks with Muon, such as 0.008, with ``train_all``
            only; default: they are trained like all others.
        warm_up: Fraction of the steps in which the rate rises.
        cool_down: Fraction of the steps, at the end, in which the rate falls to 0, with ``matrix_lr`` only; default: it
            falls as a cosine from the warm-up on.
        options: Settings of the method, by name: the fields of its class.
        checkpointing: Whether to recompute the vision tower's layers in the backward pass, which saves memory.
        chunk_size: Videos, or texts, that are encoded at a time, each chunk again in the backward pass; default: all,
            once. Gradients are those of the whole batch, memory is that of a chunk (GradCache).
        compiled: ``torch.compile`` backend of the towers, such as ``inductor``; None for no compilation.
        seed: Seed of dropout and the noise of patch selection.
        out: Path of the exported model (.safetensors), written at the end.
    """

    def __init__(
        self,
        method: str,
        *,
        weights: str | None = None,
        keep: float = 0.0,
        vision: VisionShape | None = None,
        text: TextShape | None = None,
        num_frames: int = 12,
        fps: float = 1.0,
        sampling: SamplingKind = "tempme",
        num_segments: int = 6,
        merging: MergeSchedule | None = None,
        prompts: PromptShape | None = None,
        lora_rank: int = 0,
        train_all: bool = False,
        lr: float | None = None,
        matrix_lr: float | None = None,
        warm_up: float = 0.1,
        cool_down: float | None = None,
        options: dict[str, Any] | None = None,
        checkpointing: bool = False,
        chunk_size: int = 0,
        compiled: str | None = None,
        seed: int = 0,
        out: str | None = None,
    ) -> None:
        """Build the model with random or pretrained weights.

        Raises:
            VidretError: The method is unknown or lacks an option, neither ``weights`` nor shapes are given, they differ
                or do not suit the method, ``keep`` is given without ``weights``, with ``lora_rank`` or with stretched
                positions, ``matrix_lr`` without ``train_all``, ``cool_down`` without ``matrix_lr``, a learning rate is
                not positive, or a fraction of the steps is out of range.
            ValueError: A count or rate is invalid for any model.
        """
        super().__init__(seed=seed, out=out)
        check_rates(lr=lr, matrix_lr=matrix_lr)
        optim.check_fractions(warm_up, cool_down)  # before the data are read
        if chunk_size < 0:
            raise VidretError(f"chunk_size must be at least 0, got {chunk_size}")
        if not 0 <= keep < 1 or (keep and (weights is None or lora_rank)):
            raise VidretError(f"keep must be from 0 to below 1, with weights and without lora_rank, got {keep}")
        self._kept = (str(weights), keep) if keep else None
        self._scorer: list[Aligner | ConceptAligner | None] = []
        self.method = load_method(method, options or {})
        plain = None if weights is None else load_towers(weights)
        self._trained_before = None if weights is None else TrainedOn.read(Path(weights))
        added: dict[str, Any] = {"merging": merging, "prompts": prompts, "lora_rank": lora_rank}
        frames = Sampling(num_frames, fps, rule=sampling, num_segments=num_segments)
        added |= {"method": method, "token_shift": False, "sampling": frames}
        card = replace(_start_card(plain, vision, text), **added)
        card.check()
        self.model = self.method.build(card, partial(_load_towers, plain=plain))
        if weights is not None:
            _take_aligner(self.model, Path(weights), method)
        encoder = self.model.encoder
        if keep and plain is not None and (before := plain.card.text.context) != encoder.card.text.context:
            raise VidretError(
                f"keep needs as many positions of words as the weights have, {before}, got {encoder.card.text.context}"
            )
        encoder.vision.checkpointing, self.model.chunk_size = checkpointing, chunk_size
        if compiled is not None:
            compile_tower(encoder.vision, compiled)
            encoder.text.compile(backend=compiled)
        recipe = self.method.recipe
        self._recipe, self._warm_up = recipe.for_all(lr) if train_all else recipe.at_rate(lr), warm_up
        if matrix_lr is not None:
            if not train_all:
                raise VidretError(f"matrix_lr needs train_all, got {matrix_lr} without it")
            self._recipe = with_muon(self._recipe, matrix_lr, cool_down)
        elif cool_down is not None:
            raise VidretError(f"cool_down needs matrix_lr, got {cool_down} without it")
        optim.freeze(self.model, self._recipe.rule)

    def setup(self, stage: str) -> None:
        """Check that the data fit the towers, and have the frames of an index made with the exported model.

        Raises:
            VidretError: They do not.
        """
        data, card = getattr(self.trainer, "datamodule", None), self.model.encoder.card
        if isinstance(data, RetrievalData):
            data.check_fit(card.sampling, image_size=card.vision.image_size, context=card.text.context)

    def training_step(self, batch: RetrievalBatch, _batch_index: int) -> Tensor:
        """Return the loss of a batch, gathered from all processes."""
        return self.log_terms(self.compute_terms(batch), len(batch.videos))

    def compute_terms(self, batch: RetrievalBatch) -> Terms:
        """Return the terms of the loss of a batch."""
        texts, videos = self.model.encode(batch)
        return self.method.losses(self.model, batch, texts, videos)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and clamp the learned scale."""
        super().optimizer_step(*args, **kwargs)
        for name, weight in self.model.named_parameters():
            if name.endswith("logit_scale"):
                optim.clamp_scale(weight)

    def configure_optimizers(self) -> Any:
        """Return the recipe's optimiser and schedule."""
        optimizer, schedule = self._recipe.optimizer(
            self.model, self._recipe.rule, num_steps=self.count_steps(), warm_up=self._warm_up
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_validation_epoch_start(self) -> None:
        """Keep the aligner: averages of weights (EMA) are valid in the steps, but not when scores are computed."""
        self._scorer = [copy.deepcopy(self.model.aligner)]  # in a list, so that it is no part of the module

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: RetrievalBatch, _batch_index: int) -> None:
        """Store the encoded texts and videos, prepared for scores; processes have disjoint sets of videos."""
        videos = self.model.prepare(self.model.encode_videos(batch.pixels, batch.frame_mask))
        texts = self.model.encode_texts(batch.ids).to(float32) if len(batch.ids) else None
        self._evaluated.append(
            {
                "videos": batch.videos.cpu(),
                "prepared": move_batch(videos, CPU),
                "texts": None if texts is None else move_batch(texts, CPU),
                "text_videos": batch.text_videos.cpu(),
            }
        )

    test_step = validation_step

    def summarize(self, evaluated: list[dict[str, Any]]) -> dict[str, float]:
        """Score all texts against all videos, and return recalls and mean ranks; empty without texts."""
        metrics: dict[str, float] = {}
        if all(batch["texts"] is None for batch in evaluated):
            return metrics
        for row in evaluate(*self.score(evaluated)):
            prefix = "" if row.direction == "t2v" else "v2t/"
            metrics |= {prefix + name: row.summary[name] for name in (*(f"R@{k}" for k in CUTS), "MnR")}
        return metrics

    def score(self, batches: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores (text x video) of the batches of validation, and the column of each text's video."""
        texts = _stack([batch["texts"] for batch in batches if batch["texts"] is not None])
        videos = _stack([batch["prepared"] for batch in batches])
        scores = self.model.score(move_batch(texts, self.device), move_batch(videos, self.device), *self._scorer)
        videos_in_order = (video_index for batch in batches for video_index in batch["videos"].tolist())
        columns = {video_index: column for column, video_index in enumerate(videos_in_order)}
        truth = [columns[video_index] for batch in batches for video_index in batch["text_videos"].tolist()]
        return scores.float().cpu().numpy(), np.array(truth)

    def describe(self) -> ModelDescription:
        """Return the cards of the towers and of the aligner, for ``vidret index --model``."""
        aligner = self.model.aligner
        parts = {} if aligner is None else {ALIGNER: describe_aligner(aligner).card}
        card = describe_towers(self.model.encoder).card
        description: ModelDescription = {"card": card, "weights": "model.encoder.", "parts": parts}
        return description if self._kept is None else {**description, "kept": self._kept}


def _stack(batches: list[Fields]) -> Fields:
    """Return the rows of several batches with the same fields as one batch, padded to the longest."""
    fields = zip(*batches, strict=True)
    stacked = [
        None if tensors[0] is None else pad_sequence([row for rows in tensors for row in rows], True)
        for tensors in fields
    ]
    return type(batches[0])(*stacked)  # type: ignore[arg-type]


def _start_card(plain: ClipModel | None, vision: VisionShape | None, text: TextShape | None) -> Card:
    """Return the card of pretrained towers, or of random towers of the given shapes."""
    if plain is not None:
        for name, shape in (("vision", vision), ("text", text)):
            if shape not in (None, getattr(plain.card, name)):
                raise VidretError(f"{name} must be the shape of the weights or null, got {shape}")
        return plain.card
    if vision is None or text is None:
        raise VidretError("weights, or both vision and text, must be given, got none")
    return Card("own", "own", vision, text)


def _load_towers(card: Card, plain: ClipModel | None) -> ClipModel:
    """Return the towers of a card, with pretrained weights if given; modules that the card adds keep their own."""
    model = ClipModel(card)
    if plain is None:
        return model
    shapes, weights = {name: weight.shape for name, weight in model.state_dict().items()}, plain.state_dict()
    if unlike := [name for name, weight in weights.items() if weight.shape != shapes.get(name, weight.shape)]:
        raise VidretError(f"weights must fit num_frames, merging, prompts and lora_rank, got others: {unlike[0]}")
    mismatch = model.load_state_dict(weights, strict=False)
    if mismatch.unexpected_keys:
        raise VidretError(f"weights must be of plain towers, got {', '.join(mismatch.unexpected_keys[:3])}")
    return model


def _take_aligner(model: RetrievalModel, path: Path, method: str) -> None:
    """Load the aligner of a file into that of a model, if both have one of the same kind and shapes, or warn."""
    part = None if model.aligner is None or read_card(path) is None else read_part(path, ALIGNER)
    if model.aligner is None or part is None:
        return
    model_weights, kind = model.aligner.state_dict(), part.card.get("aligner")
    shapes = [{name: weight.shape for name, weight in weights.items()} for weights in (model_weights, part.weights)]
    if kind == model.aligner.kind and shapes[0] == shapes[1]:
        model.aligner.load_state_dict(part.weights)
    else:
        logger.warning("%s: its aligner, %s, does not fit that of %s, which starts anew", path, kind, method)
