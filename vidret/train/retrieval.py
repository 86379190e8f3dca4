"""Training for retrieval: a model, the loss of its method, the recipe's optimiser, and the recall it is chosen by."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.nn import functional

from vidret.align.aligner import Aligner
from vidret.align.batches import TextBatch, VideoBatch
from vidret.align.temporal import pool_frames
from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip import load_towers
from vidret.encode.merging import MergeSchedule
from vidret.encode.model import Card, ClipModel
from vidret.encode.prompts import PromptShape
from vidret.encode.text import TextShape
from vidret.encode.vision import VisionShape
from vidret.encode.words import clip_pieces
from vidret.errors import VidretError
from vidret.eval.retrieval import evaluate
from vidret.train import optim
from vidret.train.captioner import caption_loss, frequent_ids
from vidret.train.gather import gather, gather_batch, gather_objects
from vidret.train.losses import concept_losses, find_same_videos, pair_losses, retrieval_loss
from vidret.train.mixup import draw_shares
from vidret.train.model import Method, build_model, save_parts
from vidret.types import Sampling

RULES: dict[str, Any] = {
    "clip": optim.clip4clip,
    "tempme": optim.tempme,
    "promptswitch": optim.prompt_switch,
    "ucofia": optim.ucofia,
    "glscl": optim.glscl,
}
UNUSED = {"ucofia": "encoder.logit_scale"}  # its aligner has the scale that the loss depends on


class RetrievalModule(lightning.LightningModule):
    """One of the methods in training; ``val/R@1`` (text to video) is what a checkpoint is chosen by."""

    def __init__(
        self,
        method: Method,
        *,
        weights: str | None = None,
        vision: VisionShape | None = None,
        text: TextShape | None = None,
        num_frames: int = 12,
        fps: float = 1.0,
        num_words: int = 32,
        merging: MergeSchedule | None = None,
        prompts: PromptShape | None = None,
        lora_rank: int = 0,
        train_all: bool = False,
        lr: float | None = None,
        warm_up: float = 0.1,
        captions: bool = True,
        mixup_weight: float = 0.0,
        beta: float = 0.005,
        checkpointing: bool = False,
        compiled: str | None = None,
        seed: int = 0,
        out: str | None = None,
    ) -> None:
        """Build the model.

        Args:
            method: Which method; ``clip`` is mean pooling of frames (CLIP4Clip's meanP). UCoFiA's towers shift tokens
                in time, as published, unless they merge tokens or have prompts.
            weights: An open_clip model or a file, as ``load_encoder`` takes them; random towers without.
            vision: The vision tower of random towers.
            text: Their text tower.
            num_frames: Frames of a video that the method is made for: what validation shows and an index looks at.
            fps: Frames a second at which an index made with the result looks at videos.
            num_words: Length of texts that UCoFiA's matrices are made for.
            merging: TempMe's schedule.
            prompts: Prompt Switch's cube.
            lora_rank: Rank of TempMe's updates.
            train_all: Train every weight at one rate, whatever the method's recipe says; for towers from nothing.
            lr: The recipe's rate unless given.
            warm_up: Share of all steps in which the rate rises.
            captions: Whether Prompt Switch's captioner takes part.
            mixup_weight: What geodesic mixtures as hard negatives count (m2-Mix); 0 leaves them out.
            beta: GLSCL's weight of consistency, which belongs to a batch size.
            checkpointing: Compute the vision tower's layers again on the way back, which saves memory.
            compiled: What ``torch.compile`` makes the towers with, such as ``inductor``; not compiled unless given.
            seed: Of what is drawn for mixtures.
            out: Where the chosen model is written at the end, as a .safetensors file with its card.

        Raises:
            VidretError: Neither weights nor shapes are given, or they do not fit the method.
        """
        super().__init__()
        encoder = _load_towers(
            method,
            weights,
            vision,
            text,
            Sampling(num_frames, fps),
            merging=merging,
            prompts=prompts,
            lora_rank=lora_rank,
        )
        encoder.vision.checkpointing = checkpointing
        if compiled is not None:
            encoder.vision.compile(backend=compiled)
            encoder.text.compile(backend=compiled)
        self.model = build_model(encoder, method, num_words=num_words, captions=captions)
        self.method, self.out = method, out
        self._train_all, self._warm_up = train_all, warm_up
        self._rule = _choose_rule(method, lr, train_all=train_all)
        optim.freeze(self.model, self._rule)
        self._mixup_weight, self._beta = mixup_weight, beta
        self._generator = torch.Generator().manual_seed(seed)
        self._frequent, self._end = _read_tokens() if self.model.captioner is not None else ([], 0)
        self._seen: list[dict[str, Tensor]] = []

    # Training

    def training_step(self, batch: RetrievalBatch, _number: int) -> Tensor:
        """Give the loss of a batch, gathered over processes."""
        model = self.model
        videos, texts = model.encode_videos(batch.pixels, batch.frame_mask), model.encode_texts(batch.ids)
        same = find_same_videos(gather(batch.videos))
        terms: dict[str, Tensor]
        if model.aligner is not None:
            dtype = next(model.aligner.parameters()).dtype
            texts, videos = gather_batch(texts.to(dtype)), gather_batch(videos.to(dtype))
            with torch.autocast(self.device.type, enabled=False):  # a temperature of 0.01 needs all digits
                terms = self._align(texts, videos, same)
        else:
            whole = gather(pool_frames(videos.frames.float(), videos.frame_mask))
            sentences = gather(texts.sentences.float())
            shares = draw_shares(len(whole), self._generator).to(whole) if self._mixup_weight else None
            pair = pair_losses(
                sentences, whole, model.encoder.logit_scale, same=same, shares=shares, mixed_weight=self._mixup_weight
            )
            terms = {"contrast": pair.contrast} | ({"mixed": pair.mixed} if shares is not None else {})
            if model.captioner is not None:
                terms["caption"] = self._tell(batch, videos.frames)
        loss = torch.stack(list(terms.values())).sum()
        self.log_dict({f"loss/{name}": term.detach() for name, term in terms.items()}, batch_size=len(batch.videos))
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch.videos))
        return loss

    def _align(self, texts: TextBatch, videos: VideoBatch, same: Tensor) -> dict[str, Tensor]:
        """Return the losses of a batch that an aligner scores."""
        aligner = self.model.aligner
        if isinstance(aligner, Aligner):
            return {"contrast": retrieval_loss(aligner(texts, aligner.prepare(videos)).mean, same=same)}
        assert aligner is not None
        found, asked = aligner.prepare(videos), aligner.read(texts)
        scores = self.model.encoder.logit_scale.exp() * aligner(asked, found).total
        losses = concept_losses(scores, asked.concepts, found.concepts, same=same, beta=self._beta)
        return losses._asdict()

    def _tell(self, batch: RetrievalBatch, frames: Tensor) -> Tensor:
        """Have the captioner foretell each video's caption from the frames of its first clip."""
        captioner, prompts = self.model.captioner, self.model.encoder.card.prompts
        assert captioner is not None
        memory = frames if prompts is None else frames[:, : prompts.num_frames]
        logits = captioner(batch.ids, memory, self.model.encoder.text)
        return caption_loss(logits, batch.ids, end=self._end, frequent=self._frequent)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and keep the learned scale in its bounds."""
        super().optimizer_step(*args, **kwargs)
        optim.clamp_scale(self.model.encoder.logit_scale)
        if isinstance(self.model.aligner, Aligner):
            optim.clamp_scale(self.model.aligner.logit_scale)

    def configure_optimizers(self) -> Any:
        """Give the recipe's optimiser and schedule."""
        num_steps, warm_up = int(self.trainer.estimated_stepping_batches), self._warm_up
        if self._train_all:
            optimizer, schedule = optim.adamw_optimizer(
                self.model, self._rule, num_steps=num_steps, warm_up=warm_up, betas=optim.FROM_NOTHING
            )
        elif self.method in ("clip", "ucofia", "glscl"):
            optimizer, schedule = optim.bert_optimizer(self.model, self._rule, num_steps=num_steps, warm_up=warm_up)
        else:
            optimizer, schedule = optim.adamw_optimizer(self.model, self._rule, num_steps=num_steps, warm_up=warm_up)
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
        texts, seen = TextBatch(sentences, words, word_mask), VideoBatch(frames, frame_mask=mask, **more)
        aligner = self.model.aligner
        if aligner is None:
            scores = functional.normalize(sentences, dim=-1) @ pool_frames(frames, mask).T
        else:
            dtype = next(aligner.parameters()).dtype
            texts, seen = texts.to(dtype), seen.to(dtype)
            if isinstance(aligner, Aligner):
                scores = aligner.score(texts, aligner.prepare(seen)).mean
            else:
                scores = aligner.score(texts, aligner.prepare(seen)).total
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


def _load_towers(
    method: Method,
    weights: str | None,
    vision: VisionShape | None,
    text: TextShape | None,
    sampling: Sampling,
    *,
    merging: MergeSchedule | None,
    prompts: PromptShape | None,
    lora_rank: int,
) -> ClipModel:
    """Build the towers of a method: pretrained ones with what the method adds at its start, or random ones."""
    plain = None if weights is None else load_towers(weights)
    if plain is not None:
        start = plain.card
    elif vision is not None and text is not None:
        start = Card(method, "own", vision, text)
    else:
        raise VidretError("weights or both of vision and text must be given, got none")
    card = replace(
        start,
        method=method,
        merging=merging,
        prompts=prompts,
        token_shift=method == "ucofia" and merging is None and prompts is None,
        lora_rank=lora_rank,
        sampling=sampling,
    )
    model = ClipModel(card)
    if plain is None:
        return model
    missing = model.load_state_dict(plain.state_dict(), strict=False)
    if missing.unexpected_keys:
        raise VidretError(f"{weights}: must be plain towers, got {', '.join(missing.unexpected_keys[:3])}")
    return model


def _choose_rule(method: Method, lr: float | None, *, train_all: bool) -> optim.Rule:
    """Return the recipe's rule at its own rate or another; with ``train_all``, one rate for every weight."""
    if train_all:
        return partial(_train_all, lr=lr or 5e-4, unused=UNUSED.get(method))
    rule: optim.Rule = RULES[method] if lr is None else partial(RULES[method], lr=lr)
    return rule


def _train_all(name: str, *, lr: float, unused: str | None) -> optim.Setting | None:
    """Train every weight that the loss depends on at one rate; biases, norms and scales do not decay."""
    if name == unused:
        return None
    decays = not (".ln_" in name or name.endswith(("bias", "logit_scale")))
    return optim.Setting("all", lr, 0.05 if decays else 0.0)


def _read_tokens() -> tuple[list[int], int]:
    """Give the frequent tokens and the end token of CLIP's vocabulary."""
    encode, start, end = clip_pieces()
    return frequent_ids(encode, start=start, end=end), end


def _pad_all(parts: list[Tensor]) -> Tensor:
    """Join batches whose second axis differs, zeros (False) behind."""
    longest = max(part.shape[1] for part in parts)
    padded = []
    for part in parts:
        whole = part.new_zeros(part.shape[0], longest, *part.shape[2:])
        whole[:, : part.shape[1]] = part
        padded.append(whole)
    return torch.cat(padded)
