"""The base of the Lightning data modules: the splits of each stage, their loaders, and the state for resuming."""

import logging
import shutil
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytorch_lightning as lightning
from torch.utils.data import DataLoader, Dataset

from vidret.data.benchmarks.splits import SplitChoice
from vidret.data.records import Split
from vidret.data.sampler import TrainBatches, divide_evenly
from vidret.devices import choose_device
from vidret.errors import VidretError

logger = logging.getLogger(__name__)
FEW = 10  # validation videos: with a single one, any model has an R@1 of 100, and the first epoch's is exported
PREFETCH = 2  # batches per worker
SHARED_MEMORY = Path("/dev/shm")  # where workers leave batches, on Linux
Batch = TypeVar("Batch")


class ShardLoader(Generic[Batch]):
    """A loader of this process's batches. It is not a ``DataLoader``, which a trainer would shard again, inexactly.

    ``close`` ends the worker processes; left to the garbage collector, each may take seconds to end.
    """

    def __init__(self, loader: DataLoader[Batch]) -> None:
        self._loader: DataLoader[Batch] | None = loader
        self._num_batches = len(loader)
        self._iteration: Generator[Batch, None, None] | None = None

    def __len__(self) -> int:
        """Return the number of batches of this process per epoch."""
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        if self._loader is None:
            raise ValueError("loader must be open, got a closed one")
        self._iteration = self._load(self._loader)
        return self._iteration

    def _load(self, loader: DataLoader[Batch]) -> Generator[Batch, None, None]:
        yield from loader

    def close(self) -> None:
        """End the iteration and the worker processes."""
        if self._iteration is not None:
            self._iteration.close()
        self._iteration = self._loader = None  # the last references to the workers


class TrainLoader(ShardLoader[Batch]):
    """A loader of training batches that resumes where the last iteration or a checkpoint stopped.

    The position counts batches that were returned, not those that workers have prefetched.
    """

    def __init__(self, loader: DataLoader[Batch], batches: TrainBatches, *, repeats: bool = False) -> None:
        """Wrap a loader whose batch sampler is ``batches``; ``repeats``: whether each iteration begins anew."""
        super().__init__(loader)
        self._batches, self._repeats = batches, repeats

    def _load(self, loader: DataLoader[Batch]) -> Generator[Batch, None, None]:
        for batch in loader:
            if not self._repeats:
                self._batches.advance()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the state of ``TrainBatches``."""
        return self._batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of ``TrainBatches``."""
        self._batches.load_state_dict(state)


@dataclass(frozen=True, slots=True, eq=False)
class OpenedSplit:
    """A split whose videos can all be read, with its samples and their collate function.

    Attributes:
        split: The split.
        dataset: Its samples.
        collate: Makes a batch of samples.
        sizes: Bytes of each video in a batch, without padding.
    """

    split: Split
    dataset: Dataset[Any]
    collate: Callable[[Any], Any]
    sizes: Sequence[int]


def check_shared_memory(num_bytes: int) -> None:
    """Check that shared memory has room for the workers' prefetched batches; else a worker would be killed.

    Raises:
        VidretError: It has too little.
    """
    if SHARED_MEMORY.is_dir() and num_bytes > (free := shutil.disk_usage(SHARED_MEMORY).free):
        raise VidretError(
            f"num_workers or batch_size must be lower: the batches that are loaded ahead take up to "
            f"{num_bytes / 1e9:.1f} GB, got {free / 1e9:.1f} GB free in {SHARED_MEMORY}"
        )


class SplitData(lightning.LightningDataModule):
    """The splits of a benchmark and their loaders. Subclasses define how a split is prepared on disk and opened.

    Unreadable videos are dropped from training and held-out videos; a note of the split and the log list them. A
    benchmark's own validation or test split with an unreadable video is refused, since a smaller gallery inflates the
    results, unless ``allow_missing`` is set: then its videos are dropped and listed, too.

    The loaders are not ``DataLoader``: each process has its exact shard, which a trainer must not shard again.
    """

    def __init__(
        self,
        splits: SplitChoice,
        *,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        allow_missing: bool,
        neighbours: int = 1,
    ) -> None:
        """Store the settings; nothing is read yet.

        Raises:
            VidretError: A number is too low.
        """
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
        ):
            if value < least:
                raise VidretError(f"{name} must be at least {least}, got {value}")
        self._splits, self._allow_missing, self._neighbours = splits, allow_missing, neighbours
        self._batch_size, self._eval_batch_size, self._num_workers = batch_size, eval_batch_size, num_workers
        self._opened: dict[str, OpenedSplit] = {}
        self._loader: TrainLoader[Any] | None = None
        self._open_loaders: list[ShardLoader[Any]] = []
        self._loader_state: dict[str, Any] | None = None

    @property
    def has_train(self) -> bool:
        """Whether the training split is open."""
        return "train" in self._opened

    @property
    def train(self) -> Split:
        """Return the training split, which the indices in batches refer to."""
        return self._opened["train"].split

    @property
    def val(self) -> Split:
        """Return the validation split, which the indices in batches refer to."""
        return self._opened["val"].split

    @property
    def test(self) -> Split:
        """Return the test split, which the indices in batches refer to."""
        return self._opened["test"].split

    def prepare_split(self, split: Split, *, training: bool) -> None:
        """Update the cache on disk; called in one process per machine."""
        raise NotImplementedError

    def open_split(self, split: Split, *, training: bool, whole: bool) -> OpenedSplit:
        """Open a split without its unreadable videos; with ``whole``, refuse it if there are any."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        """Prepare the splits of the trainer's current stage, or all of them without a trainer."""
        stage = None if self.trainer is None or self.trainer.state.fn is None else self.trainer.state.fn.value
        for role, split in self._splits.read(stage).items():
            self.prepare_split(split, training=role == "train")

    def setup(self, stage: str | None = None) -> None:
        """Open the splits of a stage: ``fit``, ``validate`` or ``test``, or by default all of them.

        Raises:
            VidretError: Annotations or videos cannot be read, or a benchmark's own split lacks videos.
        """
        splits = self._splits.read(stage)
        for role, split in splits.items():
            is_own = role == "test" or (role == "val" and self._splits.val_split is not None)
            whole = is_own and not self._allow_missing
            self._opened[role] = self.open_split(split, training=role == "train", whole=whole)
        if "val" in splits and (num_videos := len(self.val.videos)) < FEW:
            logger.warning("%s: validation by few videos, %d, hardly tells models apart", self.val.name, num_videos)
        if "train" in splits:
            self._loader = self._loader_state = None

    def train_dataloader(self) -> TrainLoader[Any]:
        """Return the training loader, resumed from a loaded checkpoint or from the run's previous loader."""
        opened = self._opened["train"]
        index_of_video = {video_id: index for index, video_id in enumerate(opened.split.videos)}
        rows = opened.split.captions or opened.split.queries
        rank, num_ranks = self._find_rank()
        batches = TrainBatches(
            [index_of_video[row.video] for row in rows],
            self._batch_size,
            lengths=opened.sizes,
            neighbours=self._neighbours,
            seed=self._splits.seed,
            rank=rank,
            num_ranks=num_ranks,
        )
        if self._loader is not None:
            self._loader_state = self._loader.state_dict()
            self._loader.close()
            self._open_loaders = [loader for loader in self._open_loaders if loader is not self._loader]
        if self._loader_state is not None:
            batches.load_state_dict(self._loader_state)
        loader = self._make_loader(opened, batches, self._batch_size // num_ranks)
        self._loader = TrainLoader(loader, batches, repeats=bool(getattr(self.trainer, "overfit_batches", 0)))
        self._open_loaders.append(self._loader)
        return self._loader

    def val_dataloader(self) -> ShardLoader[Any] | list[Any]:
        """Return the validation loader, with each item once over all processes; an empty list without validation."""
        return self._make_eval_loader("val") if "val" in self._opened else []

    def test_dataloader(self) -> ShardLoader[Any]:
        """Return the test loader, with each item once over all processes."""
        return self._make_eval_loader("test")

    def teardown(self, stage: str) -> None:
        """End the worker processes of all loaders."""
        for loader in self._open_loaders:
            loader.close()
        self._open_loaders = []

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the training loader for a checkpoint; a trainer's own covers only the current epoch."""
        return {} if self._loader is None else {"bookmark": self._loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume the next training loader from a checkpoint."""
        self._loader, self._loader_state = None, state_dict.get("bookmark")

    def _make_eval_loader(self, role: str) -> ShardLoader[Any]:
        opened = self._opened[role]
        rank, num_ranks = self._find_rank()
        num_items = len(opened.dataset)  # type: ignore[arg-type]
        batches = divide_evenly(num_items, self._eval_batch_size, rank=rank, num_ranks=num_ranks)
        self._open_loaders.append(ShardLoader(self._make_loader(opened, batches, self._eval_batch_size)))
        return self._open_loaders[-1]

    def _make_loader(self, opened: OpenedSplit, batches: Iterable[Any], batch_size: int) -> DataLoader[Any]:
        if self._num_workers:
            check_shared_memory(PREFETCH * self._num_workers * batch_size * max(opened.sizes, default=0))
        return DataLoader(
            opened.dataset,
            batch_sampler=batches,
            collate_fn=opened.collate,
            num_workers=self._num_workers,
            prefetch_factor=PREFETCH if self._num_workers else None,
            persistent_workers=self._num_workers > 0,
            pin_memory=self.find_device().startswith("cuda"),
            worker_init_fn=_ignore_interrupts,
        )

    def find_device(self) -> str:
        """Return the device of this process's trainer; without a trainer, the one that ``auto`` resolves to."""
        return choose_device() if self.trainer is None else str(self.trainer.strategy.root_device)

    def _find_rank(self) -> tuple[int, int]:
        """Return the rank of this process and the number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


def _ignore_interrupts(_worker_index: int) -> None:
    """Ignore Ctrl-C, which a terminal sends to all processes: the main one ends the workers after its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
