"""Do one thing to many files in processes of their own, in order, a few ahead of whoever takes the results."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

from vidret.errors import VidretError

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 2  # results that a process may have ready


class _Work(Dataset[Result], Generic[Item, Result]):
    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self._function, self._items = function, items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Result:
        return self._function(self._items[index])


def do_each(function: Callable[[Item], Result], items: Sequence[Item], num_workers: int) -> Iterator[Result]:
    """Give the result of each item, in order; ``num_workers`` 0 works in this process.

    Raises:
        VidretError: A process died, as decoders do on some broken files.
    """
    ahead = AHEAD if num_workers else None
    loader = DataLoader(
        _Work(function, items), batch_size=None, num_workers=num_workers, prefetch_factor=ahead, collate_fn=_as_it_is
    )
    results = iter(loader)
    for number in range(len(items)):
        try:
            result = next(results)
        except RuntimeError as error:
            if "worker" not in str(error) or ("exited unexpectedly" not in str(error) and "killed" not in str(error)):
                raise
            under_way = ", ".join(str(item) for item in items[number : number + num_workers * (AHEAD + 1)])
            raise VidretError(f"a reading process died at one of these: {under_way}") from error
        yield result


def _as_it_is(result: Result) -> Result:
    return result
