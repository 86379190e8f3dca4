"""Captioned videos as batches: captions with their videos for training, videos with their captions for evaluation.

Pixels stay uint8 and channels-last, as ``normalise_pixels`` takes them. Normalisation happens on the device.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from vidret.data.augment import Augmentation
from vidret.data.benchmarks.files import read_jsonl
from vidret.data.frames import FrameSource, Pixels
from vidret.data.records import Split
from vidret.data.sampler import Key
from vidret.encode.clip.text import clip_words
from vidret.errors import VidretError

logger = logging.getLogger(__name__)


class RetrievalBatch(NamedTuple):
    """Videos and the texts that describe them.

    In training, a batch has one text per video, in the same order. In evaluation, a video comes with all of its
    captions, or none.

    Attributes:
        pixels: Frames. Padding frames come last and are black.
        frame_mask: False for padding frames.
        ids: Token ids: start token, word pieces, end token, zeros.
        videos: Indices into the split's ``videos``.
        captions: Indices into the split's ``captions``.
        text_videos: Index, into the split's ``videos``, of the video that each text describes.
        first_sentences: Token ids of the first sentence of each text; None unless they are wanted.
        keys: Epoch and row of each training sample, whose videos are not augmented yet; None if they are.
    """

    pixels: UInt8[Tensor, "video frame height width 3"]
    frame_mask: Bool[Tensor, "video frame"]
    ids: Int[Tensor, "text word"]
    videos: Int[Tensor, " video"]
    captions: Int[Tensor, " text"]
    text_videos: Int[Tensor, " text"]
    first_sentences: Int[Tensor, "text word"] | None = None
    keys: Int[Tensor, "video 2"] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The frames of one video, its index in the split, its captions, and its key if it is to be augmented later.

    ``text`` replaces the text of the only caption.
    """

    video: int
    pixels: Pixels
    captions: Sequence[int]
    key: Key | None = None
    text: str | None = None


Rewritten = Mapping[tuple[str, str], Sequence[str]]  # other wordings, by video id and caption


def read_rewritten(path: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    """Read other wordings of captions: JSON lines with "video", "caption" and "variants", a list of texts.

    Raises:
        VidretError: The file cannot be read, or a line is invalid.
    """
    rewritten = {}
    for row in read_jsonl(path):
        variants = (row.check_text("variants", text) for text in row.items("variants"))
        rewritten[row.text("video"), row.text("caption")] = tuple(variants)
    return rewritten


def find_rewritten(path: Path, split: Split) -> dict[tuple[str, str], tuple[str, ...]]:
    """Read other wordings of the captions of a split, and log the number of captions with any unless all have some.

    Raises:
        VidretError: As in ``read_rewritten``; or no caption of the split has another wording.
    """
    rewritten = read_rewritten(path)
    num_found = sum(bool(rewritten.get((caption.video, caption.text))) for caption in split.captions)
    if not num_found:
        raise VidretError(f"{path}: must have other wordings of captions of {split.name}, got none")
    if num_found < len(split.captions):
        logger.warning("%s: %d of %d captions have other wordings", split.name, num_found, len(split.captions))
    return rewritten


class CaptionedVideos(Dataset[Sample]):
    """Training samples: a caption with its video, indexed by epoch and caption.

    Randomness depends only on the seed, the epoch and the caption, not on the worker or earlier samples.
    """

    def __init__(
        self,
        split: Split,
        source: FrameSource,
        *,
        augmentation: Augmentation,
        seed: int,
        later: bool = False,
        rewritten: Rewritten = MappingProxyType({}),
    ) -> None:
        """Wrap a split whose videos can all be read; ``later`` leaves the augmentation to ``augment_batch``."""
        self._later, self._rewritten = later, rewritten
        self._split, self._source, self._augmentation, self._seed = split, source, augmentation, seed
        self._index_of_video = {video_id: index for index, video_id in enumerate(split.videos)}

    def __len__(self) -> int:
        return len(self._split.captions)

    def __getitem__(self, key: Key) -> Sample:
        """Return a caption, or one of its other wordings, with its augmented video."""
        caption_index = key[1]
        caption = self._split.captions[caption_index]
        video_id, text = caption.video, None
        if variants := self._rewritten.get((video_id, caption.text)):
            text = np.random.default_rng((self._seed, *key, 2)).choice((caption.text, *variants)).item()
        pixels = read_sample_frames(self._source, video_id, np.random.default_rng((self._seed, *key)))
        if not self._later:
            pixels = self._augmentation(pixels, seed_augmentation(self._seed, key))
        index = self._index_of_video[video_id]
        later = key if self._later else None
        return Sample(video=index, pixels=pixels, captions=(caption_index,), key=later, text=text)


def seed_augmentation(seed: int, key: Sequence[int]) -> np.random.Generator:
    """Return the generator of a sample's augmentation, the same in a worker and on a device."""
    return np.random.default_rng((seed, *key, 1))


def augment_batch(batch: RetrievalBatch, augmentation: Augmentation, seed: int) -> RetrievalBatch:
    """Return a batch with augmented videos, on the same device: a GPU takes a hundredth of a worker's time.

    Padding frames stay black. A batch without keys is returned unchanged.
    """
    if batch.keys is None:
        return batch
    pixels = batch.pixels.clone()
    for video, key, num_frames in zip(pixels, batch.keys.tolist(), batch.frame_mask.sum(dim=1).tolist(), strict=True):
        video[:num_frames] = augmentation.apply(video[:num_frames], seed_augmentation(seed, key))
    return batch._replace(pixels=pixels, keys=None)


class GalleryDataset(Dataset[Sample]):
    """Evaluation samples: a video with all of its captions, indexed by video and deterministic."""

    def __init__(self, split: Split, source: FrameSource) -> None:
        """Wrap a split whose videos can all be read."""
        self._split, self._source = split, source
        self._captions: dict[str, list[int]] = {video_id: [] for video_id in split.videos}
        for index, caption in enumerate(split.captions):
            self._captions[caption.video].append(index)

    def __len__(self) -> int:
        return len(self._split.videos)

    def __getitem__(self, video_index: int) -> Sample:
        video_id = self._split.videos[video_index]
        pixels = read_sample_frames(self._source, video_id, np.random.default_rng(0))
        return Sample(video=video_index, pixels=pixels, captions=self._captions[video_id])


class Collate:
    """Collates samples into a ``RetrievalBatch``."""

    def __init__(self, split: Split, *, num_frames: int, num_words: int, first_sentences: bool = False) -> None:
        """Set the split of the texts, and the numbers of frames and of tokens to pad to."""
        self._split, self._num_frames, self._num_words = split, num_frames, num_words
        self._first_sentences = first_sentences

    def __call__(self, samples: Sequence[Sample]) -> RetrievalBatch:
        """Stack and pad the frames, and tokenise the texts."""
        height, width = samples[0].pixels.shape[1:3]
        pixels = torch.zeros(len(samples), self._num_frames, height, width, 3, dtype=torch.uint8)
        frame_mask = torch.zeros(len(samples), self._num_frames, dtype=torch.bool)
        for row, sample in enumerate(samples):
            pixels.numpy()[row, : len(sample.pixels)] = sample.pixels
            frame_mask[row, : len(sample.pixels)] = True
        captions = [caption for sample in samples for caption in sample.captions]
        texts = [sample.text or self._split.captions[index].text for sample in samples for index in sample.captions]
        return RetrievalBatch(
            pixels=pixels,
            frame_mask=frame_mask,
            ids=clip_words(texts, self._num_words),
            videos=torch.tensor([sample.video for sample in samples]),
            captions=torch.tensor(captions, dtype=torch.long),
            text_videos=torch.tensor([sample.video for sample in samples for _ in sample.captions], dtype=torch.long),
            first_sentences=clip_words([find_first_sentence(text) for text in texts], self._num_words)
            if self._first_sentences
            else None,
            keys=torch.tensor([sample.key for sample in samples]) if samples[0].key is not None else None,
        )


def find_first_sentence(text: str) -> str:
    r"""Return the text before the first full stop that is followed by a space, on one line.

    >>> find_first_sentence("A dog\nruns. It barks."), find_first_sentence("3.5 dogs run."), find_first_sentence("")
    ('A dog runs', '3.5 dogs run.', '')
    """
    return text.replace("\n", " ").partition(". ")[0]


def read_sample_frames(source: FrameSource, video_id: str, rng: np.random.Generator) -> Pixels:
    """Return a video's frames; errors are reduced to one message, so that a worker can pickle them."""
    try:
        return source.read(video_id, rng)
    except VidretError as error:
        raise VidretError(str(error)) from error
