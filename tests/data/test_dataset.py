"""Batches of captioned videos: padding, tokens, and randomness from seed, epoch and row only."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.captioned import write_captioned
from vidret.data.augment import Augmentation
from vidret.data.dataset import CaptionedVideos, Collate, GalleryDataset, read_sample_frames
from vidret.data.module import RetrievalData
from vidret.data.records import Caption, Split
from vidret.errors import DecodeError, VidretError

END = 49407
SPLIT = Split(
    "own",
    (),
    ("a", "b", "c", "d"),
    (
        Caption("0", "b", "a dog"),
        Caption("1", "a", "a cat"),
        Caption("2", "b", "the same dog " * 20),
        Caption("3", "d", "fog"),
    ),
)
NO_AUGMENTATION = Augmentation()
LENGTHS = {"a": 2, "b": 4, "c": 1, "d": 3}


class Numbered:
    """A frame source whose pixels hold the index of the video, from 1, and a random number."""

    def __init__(self) -> None:
        self.unreadable: dict[str, str] = {}
        self.salvaged: dict[str, str] = {}

    def read(self, video_id: str, rng: np.random.Generator) -> np.ndarray:
        pixels = np.full((LENGTHS[video_id], 6, 8, 3), 1 + ord(video_id) - ord("a"), np.uint8)
        pixels[:, :, :, 1] = rng.integers(256)
        return pixels


def train(seed: int = 0, augmentation: Augmentation = NO_AUGMENTATION) -> CaptionedVideos:
    return CaptionedVideos(SPLIT, Numbered(), augmentation=augmentation, seed=seed)


def test_training_batches_have_captions_with_their_padded_videos() -> None:
    batch = Collate(SPLIT, num_frames=5, num_words=8)([train()[0, row] for row in (2, 1, 3)])
    assert (batch.pixels.shape, batch.pixels.dtype) == ((3, 5, 6, 8, 3), torch.uint8)
    assert batch.videos.tolist() == batch.text_videos.tolist() == [1, 0, 3]
    assert batch.captions.tolist() == [2, 1, 3]
    assert batch.pixels[:, 0, 3, 3, 0].tolist() == [2, 1, 4]
    assert batch.frame_mask.tolist() == [[True] * count + [False] * (5 - count) for count in (4, 2, 3)]
    assert (batch.pixels[~batch.frame_mask] == 0).all()
    assert (batch.pixels[batch.frame_mask][..., 0] > 0).all()
    assert batch.ids.shape == (3, 8)
    assert batch.ids.argmax(dim=1).tolist() == [7, 3, 2], "long texts are cut before their end token"
    assert batch.ids.amax(dim=1).tolist() == [END] * 3


def test_evaluation_gives_each_video_all_of_its_captions_or_none() -> None:
    gallery = GalleryDataset(SPLIT, Numbered())
    assert len(gallery) == 4
    batch = Collate(SPLIT, num_frames=4, num_words=8)([gallery[index] for index in (1, 2, 3)])
    assert batch.videos.tolist() == [1, 2, 3]
    assert batch.captions.tolist() == [0, 2, 3]
    assert batch.text_videos.tolist() == [1, 1, 3]
    assert batch.ids.shape == (3, 8)
    uncaptioned = Collate(SPLIT, num_frames=4, num_words=8)([gallery[2]])
    assert (uncaptioned.ids.shape, uncaptioned.captions.tolist(), uncaptioned.videos.tolist()) == ((0, 8), [], [2])
    np.testing.assert_array_equal(gallery[1].pixels, gallery[1].pixels)


def test_randomness_depends_on_seed_epoch_and_row_only() -> None:
    def read(dataset: CaptionedVideos, epoch: int, row: int) -> bytes:
        return dataset[epoch, row].pixels.tobytes()

    augmentation = Augmentation(crop=0.5, colour=0.3)
    first, second = train(augmentation=augmentation), train(augmentation=augmentation)
    in_order = {(epoch, row): read(first, epoch, row) for epoch in range(3) for row in range(4)}
    assert in_order == {(epoch, row): read(second, epoch, row) for epoch in (2, 0, 1) for row in (3, 1, 0, 2)}
    assert len(set(in_order.values())) == 12
    assert read(train(seed=1, augmentation=augmentation), 0, 0) != in_order[0, 0]


def test_errors_are_reduced_to_one_picklable_message() -> None:
    class Broken(Numbered):
        def read(self, video_id: str, rng: np.random.Generator) -> np.ndarray:
            raise DecodeError(f"{video_id}.mp4", "is empty")

    with pytest.raises(VidretError, match=r"^a\.mp4: is empty$") as caught:
        read_sample_frames(Broken(), "a", np.random.default_rng(0))
    assert caught.value.args == ("a.mp4: is empty",)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_augmentation_on_the_device_equals_that_of_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is a CPU that is called otherwise."""
    world = write_captioned(tmp_path, (2, 1, 2))
    found = []
    settings: dict[str, Any] = {"cache": str(tmp_path / "cache"), "val_share": 0.0, "batch_size": 3, "num_workers": 0}
    settings |= {"image_size": 32, "policy": True, "crop": 0.5}
    for device in ("cpu", "cuda:0"):
        data = RetrievalData("captions", str(world), str(world / "videos"), **settings)
        monkeypatch.setattr(data, "find_device", lambda device=device: device)
        data.prepare_data()
        data.setup("fit")
        loaded = list(data.train_dataloader())
        assert all((batch.keys is None) == (device == "cpu") for batch in loaded)
        found.append([data.on_after_batch_transfer(batch, 0) for batch in loaded])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.ids, other.ids)
        assert other.keys is None
    assert len({tuple(batch.pixels.flatten().tolist()) for batch in found[0]}) == len(found[0])
