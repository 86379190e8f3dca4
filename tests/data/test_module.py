"""Lightning data modules: equal batches for any number of workers and processes, and exact resumption."""

import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from torch import Tensor

from tests.data.captioned import LayeredFake, write_captioned, write_moments, write_msvd, write_numbered
from tests.video.films import read_numbers
from vidret.data import stages
from vidret.data.dataset import RetrievalBatch
from vidret.data.grounding import GroundingBatch
from vidret.data.module import GroundingData, RetrievalData
from vidret.errors import VidretError

# Lightning uses deprecated parts of torch and jsonargparse.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pytorch_lightning"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captioned(tmp_path_factory.mktemp("world"), captions=(2, 1, 3, 2, 1, 2, 3, 1, 2, 1))


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moments(tmp_path_factory.mktemp("moments"), (2, 1, 3, 1))


def make(world: Path, **settings: Any) -> RetrievalData:
    """Return a data module of small frames with random sampling and augmentation."""
    randomness = {"sampling": "segments", "num_frames": 3, "num_segments": 3, "crop": 0.6, "colour": 0.2, "seed": 4}
    sizes = {
        "image_size": 32,
        "num_words": 8,
        "batch_size": 4,
        "eval_batch_size": 2,
        "num_workers": 0,
        "val_share": 0.2,
    }
    return RetrievalData("captions", str(world), str(world / "videos"), **{**randomness, **sizes, **settings})


def ready(data: Any, stage: str | None = None, rank: int = 0, num_ranks: int = 1) -> Any:
    """Prepare and set up a data module as a trainer does, for one of several processes."""
    strategy, state = SimpleNamespace(root_device=torch.device("cpu")), SimpleNamespace(fn=None)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=num_ranks, state=state, strategy=strategy)
    if rank == 0:
        data.prepare_data()
    data.setup(stage)
    return data


def assert_equal(left: Iterable[Any], right: Iterable[Any]) -> None:
    """Assert that batches are exactly equal."""
    for one, two in zip(left, right, strict=True):
        for first, second in zip(one, two, strict=True):
            assert (first is None) == (second is None)
            assert first is None or torch.equal(first, second)


def test_training_batches_have_captions_of_different_videos(world: Path) -> None:
    data = ready(make(world, crop=1.0, colour=0.0))
    seen = []
    for batch in data.train_dataloader():
        assert isinstance(batch, RetrievalBatch)
        assert batch.pixels.shape == (len(batch.videos), 3, 32, 32, 3)
        assert batch.frame_mask.all()
        assert len(set(batch.videos.tolist())) == len(batch.videos)
        for row, (video, caption) in enumerate(zip(batch.videos.tolist(), batch.captions.tolist(), strict=True)):
            video_id = data.train.videos[video]
            assert data.train.captions[caption].video == video_id
            first = 10 * int(video_id[1:])
            assert all(first <= frame_number < first + 26 for frame_number in read_numbers(batch.pixels[row].numpy()))
        seen += batch.captions.tolist()
    assert sorted(seen) == list(range(len(data.train.captions)))


def test_validation_is_held_out_and_yields_each_video_once(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = ready(make(world))
    assert len(data.val.videos) == 2
    assert caplog.messages == [f"{data.val.name}: validation by few videos, 2, hardly tells models apart"]
    assert sorted(data.train.videos + data.val.videos) == sorted(f"v{video_index}" for video_index in range(10))
    batches = list(data.val_dataloader())
    assert sorted(video for batch in batches for video in batch.videos.tolist()) == [0, 1]
    captions = [caption for batch in batches for caption in batch.captions.tolist()]
    assert sorted(captions) == list(range(len(data.val.captions)))
    assert_equal(batches, data.val_dataloader())
    assert ready(make(world, val_share=0.0)).val_dataloader() == []


def test_other_wordings_must_be_of_used_captions(world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, captions = tmp_path / "rewritten.jsonl", ready(make(world)).train.captions
    row = {"video": captions[0].video, "caption": captions[0].text, "variants": ["fog"]}
    path.write_text(json.dumps(row))
    ready(make(world, rewritten=str(path)))
    assert f"1 of {len(captions)} captions have other wordings" in caplog.text
    path.write_text(json.dumps({**row, "caption": "another"}))
    with pytest.raises(VidretError, match=r"rewritten\.jsonl: must have other wordings of captions of captions-rest, "):
        ready(make(world, rewritten=str(path)))


def test_batches_depend_neither_on_the_number_of_workers_nor_on_the_cache(world: Path, tmp_path: Path) -> None:
    expected = ready(make(world))
    train, val = expected.train_dataloader(), list(expected.val_dataloader())
    epochs = [*train, *train]  # the second epoch as well
    assert len({batch.pixels.numpy().tobytes() for batch in epochs}) == len(epochs)
    for cache, num_workers in ((None, 2), (str(tmp_path), 0), (str(tmp_path), 2)):
        data = ready(make(world, cache=cache, num_workers=num_workers))
        train = data.train_dataloader()
        assert_equal(epochs, [*train, *train])
        assert_equal(val, data.val_dataloader())
    assert len(list(tmp_path.iterdir())) == 2  # training draws among candidates, validation does not


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_processes_share_the_data_without_overlap(world: Path, num_ranks: int) -> None:
    settings: dict[str, Any] = {"batch_size": num_ranks, "test_split": None, "val_share": 0.5}
    modules = [ready(make(world, **settings), rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    trained = [[batch.captions.tolist() for batch in module.train_dataloader()] for module in modules]
    videos = [row.video for row in modules[0].train.captions]
    for step in zip(*trained, strict=True):
        together = [videos[caption] for batch in step for caption in batch]
        assert len(set(together)) == len(together) == num_ranks
    used = [caption for batches in trained for batch in batches for caption in batch]
    assert len(set(used)) == len(used) == len(videos) - len(videos) % num_ranks
    evaluated = [[video for batch in module.val_dataloader() for video in batch.videos.tolist()] for module in modules]
    assert sorted(video for videos in evaluated for video in videos) == list(range(5))  # an uneven division


class Recorder(lightning.LightningModule):
    """Records its batches, and takes steps so that the trainer counts."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[str] = []
        self.evaluated: list[int] = []

    def training_step(self, batch: RetrievalBatch, batch_idx: int) -> Tensor:
        tensors = [tensor for tensor in batch if tensor is not None]
        self.seen.append(hashlib.md5(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest())
        return self.weight.sum()

    def validation_step(self, batch: RetrievalBatch, batch_idx: int) -> None:
        self.evaluated += batch.videos.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(lightning.Callback):
    """Saves a checkpoint after a step or an epoch, at the same time as the trainer's own callback."""

    def __init__(self, path: Path, *, step: int = -1, epoch: int = -1) -> None:
        self._path, self._step, self._epoch = path, step, epoch

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:
            trainer.save_checkpoint(self._path)

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.current_epoch == self._epoch:
            trainer.save_checkpoint(self._path)


def fit(data: RetrievalData, *, resume: Path | None = None, **settings: Any) -> Recorder:
    """Train from scratch or from a checkpoint, and return the recorder."""
    recorder = Recorder()
    disabled = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    trainer = lightning.Trainer(
        accelerator="cpu", num_sanity_val_steps=0, **{**dict.fromkeys(disabled, False), **settings}
    )
    trainer.fit(recorder, datamodule=data, ckpt_path=resume, weights_only=False)
    return recorder


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the batches of training that nothing stops."""
    data = make(world, cache=str(tmp_path_factory.mktemp("cache")))
    seen = fit(data, max_steps=10, limit_val_batches=0).seen
    assert len(seen) == len(set(seen)) == 10
    return seen


# An epoch has 4 batches: stop within it, at its end, and within the next one.
@pytest.mark.parametrize(("stop", "num_workers"), [(2, 0), (4, 0), (6, 2)])
def test_resumed_training_sees_the_same_batches(
    world: Path, whole: list[str], tmp_path: Path, stop: int, num_workers: int
) -> None:
    data: dict[str, Any] = {"num_workers": num_workers, "cache": str(tmp_path / "cache")}
    checkpoint = tmp_path / "stopped.ckpt"
    first = fit(make(world, **data), max_steps=stop, limit_val_batches=0, callbacks=SaveAt(checkpoint, step=stop))
    second = fit(make(world, **data), max_steps=10, limit_val_batches=0, resume=checkpoint)
    assert (len(first.seen), len(second.seen)) == (stop, 10 - stop)
    assert first.seen + second.seen == whole


def test_overfitting_sees_the_same_batches_in_every_epoch(world: Path) -> None:
    seen = fit(make(world), max_epochs=3, overfit_batches=2).seen
    assert len(set(seen[:2])) == 2
    assert seen == 3 * seen[:2]


def test_no_worker_outlives_the_training(world: Path) -> None:
    recorder = fit(make(world, num_workers=2), max_steps=6)
    assert (len(recorder.seen), recorder.evaluated) == (6, [0, 1])
    assert not multiprocessing.active_children()


def test_ctrl_c_does_not_end_the_workers(world: Path) -> None:
    data = ready(make(world, num_workers=1))
    loader = data.train_dataloader()
    assert len(list(loader)) == len(loader)
    (worker,) = multiprocessing.active_children()
    os.kill(int(str(worker.pid)), signal.SIGINT)  # a terminal sends it to all processes
    assert len(list(loader)) == len(loader)
    data.teardown("fit")


def test_checkpoint_at_the_end_of_an_epoch_resumes_in_the_next(world: Path, tmp_path: Path) -> None:
    whole = fit(make(world), max_epochs=3)
    first = fit(make(world), max_epochs=1, callbacks=SaveAt(tmp_path / "stopped.ckpt", epoch=0))
    second = fit(make(world), max_epochs=3, resume=tmp_path / "stopped.ckpt")
    assert first.seen + second.seen == whole.seen
    assert first.evaluated == [0, 1]
    assert second.evaluated == [0, 1, 0, 1]


def write_partly_unreadable(folder: Path) -> Path:
    """Write captioned videos of which one is not a video, one is missing, and one is truncated."""
    write_captioned(folder, (1, 1, 2, 1, 1, 1))
    videos = folder / "videos"
    (videos / "v1.mp4").write_text("no video")
    (videos / "v2.mp4").unlink()
    (videos / "v4.mp4").unlink()
    film = write_numbered(videos / "v4.mkv", 100)
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    return folder


@pytest.mark.parametrize("is_cached", [False, True])
def test_unreadable_videos_are_omitted_from_training_and_noted(tmp_path: Path, is_cached: bool) -> None:
    world = write_partly_unreadable(tmp_path / "world")
    data = ready(make(world, cache=str(tmp_path / "cache") if is_cached else None, val_share=0.0))
    assert data.train.videos == ("v0", "v3", "v4", "v5")
    salvaged, omitted = data.train.notes[-2:]
    reasons = f"v1: is not a video, v2: no file in {world / 'videos'}"
    assert omitted == f"videos omitted of 6 because they cannot be read: 2 ({reasons})"
    assert salvaged.startswith("videos that can be read only in part: 1 (v4: ")
    assert sum(len(batch.captions) for batch in data.train_dataloader()) == 4


@pytest.fixture
def msvd(tmp_path: Path) -> Path:
    write_captioned(tmp_path, (1,) * 7)
    return write_msvd(tmp_path, train=("v0", "v1", "v2"), val=("v3",), test=("v4", "v5", "v6"))


def make_msvd(folder: Path, **settings: Any) -> RetrievalData:
    sizes: dict[str, Any] = {"image_size": 32, "num_frames": 3, "batch_size": 2, "num_workers": 0}
    return RetrievalData("msvd", str(folder), str(folder / "videos"), **{**sizes, **settings})


def test_own_split_with_unreadable_video_is_refused_unless_allowed(msvd: Path) -> None:
    (msvd / "videos" / "v5.mp4").write_text("no video")
    with pytest.raises(
        VidretError, match=r"msvd-test must have all its videos, .*: cannot read 1 \(v5: is not a video\)"
    ):
        ready(make_msvd(msvd, test_split="test"), "test")
    data = ready(make_msvd(msvd, test_split="test", allow_missing=True), "test")
    assert data.test.videos == ("v4", "v6")
    assert "videos omitted of 3" in data.test.notes[-1]
    (msvd / "videos" / "v3.mp4").unlink()
    with pytest.raises(VidretError, match=r"msvd-val must have all its videos, .*: cannot read 1 \(v3: no file"):
        ready(make_msvd(msvd, val_split="val"), "validate")


def test_test_split_is_read_only_if_named(msvd: Path) -> None:
    (msvd / "test_list.txt").rename(msvd / "away.txt")
    data = ready(make_msvd(msvd, val_share=0.34))
    assert sorted(data.train.videos + data.val.videos) == ["v0", "v1", "v2"]
    with pytest.raises(VidretError, match="test_split must be set for testing, got None"):
        data.setup("test")
    (msvd / "away.txt").rename(msvd / "test_list.txt")
    named = ready(make_msvd(msvd, test_split="test", val_split="val"))
    assert [batch.videos.tolist() for batch in named.test_dataloader()] == [[0, 1, 2]]
    assert named.val.videos == ("v3",)
    for train_split in ("train", None):
        with pytest.raises(VidretError, match="test_split must differ from the training split, got train"):
            make_msvd(msvd, train_split=train_split, test_split="train")


def test_evaluation_may_use_more_frames_than_training_and_short_videos_are_padded(world: Path) -> None:
    data = ready(make(world, sampling="clip4clip", num_frames=3, eval_frames=12))
    assert next(iter(data.train_dataloader())).pixels.shape[1] == 3
    batch = next(iter(data.val_dataloader()))
    lengths = [15 + int(data.val.videos[video][1:]) for video in batch.videos.tolist()]
    assert batch.frame_mask.sum(dim=1).tolist() == [-(-length // 5) for length in lengths]
    frame_numbers = read_numbers(batch.pixels[0, batch.frame_mask[0]].numpy())
    assert frame_numbers == sorted(frame_numbers)


def test_checkpoint_without_loader_state_starts_at_the_beginning(world: Path) -> None:
    data = ready(make(world))
    data.load_state_dict({})
    assert data.state_dict() == {}
    data.train_dataloader()
    assert data.state_dict()["bookmark"]["position"] == 0


def test_a_loader_that_is_made_again_in_a_run_goes_on_with_the_next_epoch(world: Path) -> None:
    data, whole = ready(make(world)), ready(make(world)).train_dataloader()
    epochs = [[batch.captions.tolist() for batch in data.train_dataloader()] for _ in range(2)]
    assert epochs == [[batch.captions.tolist() for batch in whole] for _ in range(2)]
    assert len(data._open_loaders) == 1, "whose workers wait for more"
    data.setup("fit")
    assert [batch.captions.tolist() for batch in data.train_dataloader()] == epochs[0], "another run"


def test_invalid_settings_are_refused_immediately(world: Path) -> None:
    with pytest.raises(VidretError, match=r"num_words must be at least 3 .* got 2, 32"):
        make(world, num_words=2)
    with pytest.raises(VidretError, match="num_frames must be a multiple of num_segments 3, got 4"):
        make(world, num_frames=4)
    for name, least in (("seed", 0), ("num_workers", 0), ("batch_size", 1), ("eval_batch_size", 1)):
        with pytest.raises(VidretError, match=f"{name} must be at least {least}, got {least - 1}"):
            make(world, **{name: least - 1})
    with pytest.raises(VidretError, match="crop must be in"):
        make(world, crop=0.0)
    with pytest.raises(VidretError, match="fps must be positive and saliency_range ascending, got 0"):
        GroundingData("moments", "a", "v", "c", fps=0)


def make_moments(moments: Path, cache: Path, **settings: Any) -> GroundingData:
    sizes: dict[str, Any] = {"num_layers": 2, "val_share": 0.0, "batch_size": 2, "num_workers": 0}
    settings = {"encoder": LayeredFake(), **sizes, **settings}
    return GroundingData("moments", str(moments), str(moments / "videos"), str(cache), **settings)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_grounding_batches_have_queries_into_different_videos(moments: Path, tmp_path: Path, num_workers: int) -> None:
    encoder = LayeredFake()
    data = ready(make_moments(moments, tmp_path, encoder=encoder, num_workers=num_workers))
    assert (encoder.num_frames, encoder.num_texts) == (4 + 5 + 6 + 7, 3)
    seen = []
    for batch in data.train_dataloader():
        assert isinstance(batch, GroundingBatch)
        rows = [data.train.queries[query] for query in batch.queries.tolist()]
        assert len({row.video for row in rows}) == len(rows)
        assert batch.durations.tolist() == pytest.approx([row.duration for row in rows])
        assert batch.frame_mask.sum(dim=1).tolist() == [int(duration / 2) for duration in batch.durations.tolist()]
        assert batch.spans[:, 0].tolist() == [[2.0, 6.0]] * len(rows)
        seen += batch.queries.tolist()
    assert sorted(seen) == list(range(7))
    again = LayeredFake()
    ready(make_moments(moments, tmp_path, encoder=again))
    assert again.num_frames == again.num_texts == 0


def test_grounding_knows_the_bytes_of_its_samples(moments: Path, tmp_path: Path) -> None:
    data = ready(make_moments(moments, tmp_path))
    opened = data._opened["train"]
    read = {sample.query: sample.video for sample in (opened.dataset[row] for row in range(len(data.train.queries)))}
    for row, query in enumerate(data.train.queries):
        num_bytes = sum(layer.nbytes for layer in read[row].layers)
        assert num_bytes <= opened.sizes[data.train.videos.index(query.video)] < num_bytes + 500, "files have a header"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_that_shared_memory_cannot_hold_are_refused_before_the_start(
    moments: Path, tmp_path: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ready(make_moments(moments, tmp_path, num_workers=num_workers))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2000))
    monkeypatch.setattr(stages, "SHARED_MEMORY", tmp_path)
    if num_workers:
        with pytest.raises(
            VidretError, match=r"num_workers or batch_size must be lower: .* up to 0\.0 GB, got 0\.0 GB free"
        ):
            data.train_dataloader()
    else:
        assert len(data.train_dataloader()) > 0, "nothing is shared"


def test_named_encoder_is_on_trainers_device(moments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []

    def load(name: str, *, device: str) -> LayeredFake:
        devices.append(device)
        return LayeredFake()

    monkeypatch.setattr("vidret.data.module.load_encoder", load)
    data = make_moments(moments, tmp_path, encoder="ViT-B-32/random")
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cuda:1")))
    data.trainer = trainer
    data._load_encoder()
    assert devices == ["cuda:1"]
    data.trainer = None
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    data._load_encoder()
    assert devices[1:] == ["cpu"]


def test_grounding_omits_short_and_unreadable_videos(moments: Path, tmp_path: Path) -> None:
    data = ready(make_moments(moments, tmp_path / "cache", min_seconds=9.0))
    assert {row.video for row in data.train.queries} == {"v1", "v2", "v3"}
    assert data.train.notes[-1] == "queries omitted because their video is shorter than 9 s: 2"
    broken = write_moments(tmp_path / "broken", (1, 1))
    (broken / "videos" / "v0.mp4").write_text("no video")
    data = ready(make_moments(broken, tmp_path / "cache"))
    assert data.train.videos == ("v1",)
    assert data.train.notes[-1].endswith("1 (v0: is not a video)")


def test_grounding_requires_labels_and_an_encoder_with_layers(moments: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (moments / "moments.jsonl").read_text().splitlines()]
    unlabelled = [{name: line[name] for name in ("qid", "query", "vid", "duration")} for line in lines]
    (tmp_path / "moments.jsonl").write_text("".join(json.dumps(line) + "\n" for line in unlabelled))
    (tmp_path / "videos").symlink_to(moments / "videos")
    with pytest.raises(VidretError, match=r"must have spans or saliency to train on, got none for query"):
        ready(make_moments(tmp_path, tmp_path))
    with pytest.raises(VidretError, match="encoder must provide its layers, as CLIP models do, got"):
        ready(make_moments(moments, tmp_path, encoder=object()))
