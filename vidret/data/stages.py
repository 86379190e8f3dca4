"""The stages of a training run: which split each reads, how it is shared out, and where a stopped run goes on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as lightning
from torch.utils.data import DataLoader, Dataset

from vidret.data.benchmarks.splits import read_split
from vidret.data.holdout import Portions, default_split, read_portions
from vidret.data.records import Split
from vidret.data.sampler import EvalBatches, EvalLoader, TrainBatches, TrainLoader
from vidret.devices import choose_device
from vidret.errors import VidretError


@dataclass(frozen=True, slots=True, eq=False)
class OpenedSplit:
    """A split whose videos can all be read, its samples, and what makes a batch of them."""

    split: Split
    dataset: Dataset[Any]
    collate: Callable[[Any], Any]


class SplitData(lightning.LightningDataModule):
    """Splits of a benchmark as loaders. Who inherits says how a split is prepared on the disk, and how it is opened.

    Videos that cannot be read are left out of training, and of what is held out of it; a note of the split and the log
    count and name them. A benchmark's own validation or test split is refused without one of its videos, since a
    smaller gallery makes better numbers, unless ``allow_missing`` is set: then they are noted there, too.

    Loaders are no ``DataLoader``: each process has its exact share, which a trainer must not share out once more.
    """

    def __init__(
        self,
        name: str,
        annotations: str,
        *,
        train_split: str | None,
        val_split: str | None,
        test_split: str | None,
        val_share: float,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        seed: int,
        allow_missing: bool,
        neighbours: int = 1,
    ) -> None:
        """Keep the settings; nothing is read yet."""
        super().__init__()
        if test_split is not None and test_split == (train_split or default_split(name)):
            raise VidretError(f"test_split must not be what is trained on, got {test_split}")
        self._name, self._annotations, self._allow_missing = name, annotations, allow_missing
        self._train_split, self._val_split, self._test_split = train_split, val_split, test_split
        self._val_share, self._batch_size, self._eval_batch_size = val_share, batch_size, eval_batch_size
        self._num_workers, self._seed, self._neighbours = num_workers, seed, neighbours
        self._opened: dict[str, OpenedSplit] = {}
        self._loader: TrainLoader[Any] | None = None
        self._bookmark: dict[str, Any] | None = None

    @property
    def train(self) -> Split:
        """Give the split that is trained on; batches number its rows."""
        return self._opened["train"].split

    @property
    def val(self) -> Split:
        """Give the split that is validated on; batches number its rows."""
        return self._opened["val"].split

    @property
    def test(self) -> Split:
        """Give the split that is tested on; batches number its rows."""
        return self._opened["test"].split

    def prepare_split(self, split: Split, *, training: bool) -> None:
        """Bring what is kept on the disk up to date; one process a machine does."""
        raise NotImplementedError

    def open_split(self, split: Split, *, training: bool, whole: bool) -> OpenedSplit:
        """Open a split; with ``whole`` refuse it where a video cannot be read, else ``leave_out`` those that cannot."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        """Prepare the splits that the trainer is about to read; all of them where there is no trainer."""
        stage = None if self.trainer is None or self.trainer.state.fn is None else self.trainer.state.fn.value
        for part, split in self._read(stage).items():
            self.prepare_split(split, training=part == "train")

    def setup(self, stage: str | None = None) -> None:
        """Open the splits of a stage: ``fit``, ``validate`` or ``test``; all of them unless one is given.

        Raises:
            VidretError: Annotations or videos cannot be read, or a benchmark's split lacks some.
        """
        for part, split in self._read(stage).items():
            is_benchmark = part == "test" or (part == "val" and self._val_split is not None)
            whole = is_benchmark and not self._allow_missing
            self._opened[part] = self.open_split(split, training=part == "train", whole=whole)
        if "train" in self._opened:
            self._bookmark = None

    def train_dataloader(self) -> TrainLoader[Any]:
        """Load batches to train on, from where a checkpoint left off."""
        opened = self._opened["train"]
        number = {video: place for place, video in enumerate(opened.split.videos)}
        rows = opened.split.captions or opened.split.queries
        rank, num_ranks = self._find_rank()
        batches = TrainBatches(
            [number[row.video] for row in rows],
            self._batch_size,
            neighbours=self._neighbours,
            seed=self._seed,
            rank=rank,
            num_ranks=num_ranks,
        )
        if self._bookmark is not None:
            batches.load_state_dict(self._bookmark)
        self._loader = TrainLoader(self._make_loader(opened, batches), batches)
        return self._loader

    def val_dataloader(self) -> EvalLoader[Any] | list[Any]:
        """Load what is validated on, each item once over all processes; nothing where nothing is held out."""
        return self._load_once("val") if "val" in self._opened else []

    def test_dataloader(self) -> EvalLoader[Any]:
        """Load what is tested on, each item once over all processes."""
        return self._load_once("test")

    def state_dict(self) -> dict[str, Any]:
        """Say where training is, for a checkpoint."""
        return {} if self._loader is None else {"bookmark": self._loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint: the next training loader starts there."""
        self._bookmark = state_dict.get("bookmark")

    def _read(self, stage: str | None) -> dict[str, Split]:
        """Read the annotations of a stage."""
        splits: dict[str, Split] = {}
        if stage in (None, "fit", "validate"):
            portions = self._read_portions()
            splits |= {"train": portions.train} if stage != "validate" else {}
            splits |= {"val": portions.val} if portions.val is not None else {}
        if stage == "test" and self._test_split is None:
            raise VidretError("test_split must be named to test on it: it is not chosen for you")
        if stage in (None, "test") and self._test_split is not None:
            splits["test"] = read_split(self._name, self._annotations, self._test_split)
        return splits

    def _read_portions(self) -> Portions:
        return read_portions(
            self._name,
            self._annotations,
            train_split=self._train_split,
            val_split=self._val_split,
            val_share=self._val_share,
            seed=self._seed,
        )

    def _load_once(self, part: str) -> EvalLoader[Any]:
        opened = self._opened[part]
        rank, num_ranks = self._find_rank()
        num_items = len(opened.dataset)  # type: ignore[arg-type]
        batches = EvalBatches(num_items, self._eval_batch_size, rank=rank, num_ranks=num_ranks)
        return EvalLoader(self._make_loader(opened, batches))

    def _make_loader(self, opened: OpenedSplit, batches: TrainBatches | EvalBatches) -> DataLoader[Any]:
        return DataLoader(
            opened.dataset,
            batch_sampler=batches,
            collate_fn=opened.collate,
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
            pin_memory=self.find_device().startswith("cuda"),
        )

    def find_device(self) -> str:
        """Return the device that the trainer of this process computes on; without a trainer what ``auto`` means."""
        return choose_device() if self.trainer is None else str(self.trainer.strategy.root_device)

    def _find_rank(self) -> tuple[int, int]:
        """Say which process this is, of how many."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
