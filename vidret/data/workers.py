"""An ordered map over many files in worker processes, with bounded prefetching."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

from vidret.errors import VidretError

Item = TypeVar("Item")
Result = TypeVar("Result")
PREFETCH = 2  # results per worker


class _MappedItems(Dataset[Result], Generic[Item, Result]):
    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self._function, self._items = function, items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Result:
        return self._function(self._items[index])


def map_in_workers(function: Callable[[Item], Result], items: Sequence[Item], num_workers: int) -> Iterator[Result]:
    """Yield the result for each item, in order. With ``num_workers`` 0, everything runs in this process.

    Raises:
        VidretError: A worker died, as decoders do on some corrupt files.
    """
    loader = DataLoader(
        _MappedItems(function, items),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=PREFETCH if num_workers else None,
        collate_fn=_identity,
    )
    results = iter(loader)
    for index in range(len(items)):
        try:
            result = next(results)
        except RuntimeError as error:
            if "worker" not in str(error) or ("exited unexpectedly" not in str(error) and "killed" not in str(error)):
                raise
            pending = ", ".join(str(item) for item in items[index : index + num_workers * (PREFETCH + 1)])
            raise VidretError(f"a worker process died while reading one of these: {pending}") from error
        yield result


def _identity(result: Result) -> Result:
    return result
