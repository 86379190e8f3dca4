"""Captioned videos -> batches: a caption with its video to train on, a video with its captions to measure.

Pixels stay bytes, and in the order that ``normalise_pixels`` takes; whoever trains standardises them on the device.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from vidret.data.augment import Augmentation
from vidret.data.cache.frames import FrameSource, Pixels
from vidret.data.records import Split
from vidret.data.sampler import Key
from vidret.encode.tokenizer import clip_words
from vidret.errors import VidretError


class RetrievalBatch(NamedTuple):
    """Videos and the texts that describe them.

    ``videos`` and ``captions`` are the numbers of rows in the split's own ``videos`` and ``captions``; ``text_videos``
    says which video each text describes. In training a batch has one text a video, in the same order; in evaluation a
    video has all its captions, or none. Padding frames come last, are black, and False in ``frame_mask``. Ids are
    start token, word pieces, end token, and zeros.
    """

    pixels: UInt8[Tensor, "video frame height width 3"]
    frame_mask: Bool[Tensor, "video frame"]
    ids: Int[Tensor, "text word"]
    videos: Int[Tensor, " video"]
    captions: Int[Tensor, " text"]
    text_videos: Int[Tensor, " text"]


class Sample(NamedTuple):
    """One video's frames, and the numbers of its captions that are in the batch."""

    video: int
    pixels: Pixels
    captions: Sequence[int]


class CaptionedVideos(Dataset[Sample]):
    """A caption with its video, by epoch and number of the caption.

    All that chance decides follows from the seed and these two: not from the worker, nor from what came before.
    """

    def __init__(self, split: Split, source: FrameSource, *, augmentation: Augmentation, seed: int) -> None:
        """Take a split of which every video can be read."""
        self._split, self._source, self._augmentation, self._seed = split, source, augmentation, seed
        self._numbers = {video: number for number, video in enumerate(split.videos)}

    def __len__(self) -> int:
        """Count the captions."""
        return len(self._split.captions)

    def __getitem__(self, key: Key) -> Sample:
        """Read the video of a caption."""
        video = self._split.captions[key[1]].video
        rng = np.random.default_rng((self._seed, *key))
        pixels = self._augmentation(read_sample_frames(self._source, video, rng), rng)
        return Sample(self._numbers[video], pixels, (key[1],))


class GalleryDataset(Dataset[Sample]):
    """A video with all its captions, by number; the same each time."""

    def __init__(self, split: Split, source: FrameSource) -> None:
        """Take a split of which every video can be read."""
        self._split, self._source = split, source
        self._captions: dict[str, list[int]] = {video: [] for video in split.videos}
        for number, caption in enumerate(split.captions):
            self._captions[caption.video].append(number)

    def __len__(self) -> int:
        """Count the videos."""
        return len(self._split.videos)

    def __getitem__(self, number: int) -> Sample:
        """Read a video."""
        video = self._split.videos[number]
        return Sample(number, read_sample_frames(self._source, video, np.random.default_rng(0)), self._captions[video])


class Collate:
    """Make a batch of samples."""

    def __init__(self, split: Split, *, num_frames: int, num_words: int) -> None:
        """Fix the sizes of a batch, and where the texts come from."""
        self._split, self._num_frames, self._num_words = split, num_frames, num_words

    def __call__(self, samples: Sequence[Sample]) -> RetrievalBatch:
        """Stack frames, padding the short, and read the texts."""
        height, width = samples[0].pixels.shape[1:3]
        pixels = torch.zeros(len(samples), self._num_frames, height, width, 3, dtype=torch.uint8)
        frame_mask = torch.zeros(len(samples), self._num_frames, dtype=torch.bool)
        for row, sample in enumerate(samples):
            pixels.numpy()[row, : len(sample.pixels)] = sample.pixels
            frame_mask[row, : len(sample.pixels)] = True
        captions = [caption for sample in samples for caption in sample.captions]
        return RetrievalBatch(
            pixels=pixels,
            frame_mask=frame_mask,
            ids=clip_words([self._split.captions[caption].text for caption in captions], self._num_words),
            videos=torch.tensor([sample.video for sample in samples]),
            captions=torch.tensor(captions, dtype=torch.long),
            text_videos=torch.tensor([sample.video for sample in samples for _ in sample.captions], dtype=torch.long),
        )


def read_sample_frames(source: FrameSource, video: str, rng: np.random.Generator) -> Pixels:
    """Read a video in a worker, whose errors must be made of one sentence to arrive whole.

    Raises:
        VidretError: It cannot be read.
    """
    try:
        return source.read(video, rng)
    except VidretError as error:
        raise VidretError(str(error)) from error
