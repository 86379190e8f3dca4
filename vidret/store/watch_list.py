"""The watches of an index: queries that it keeps, to report which videos added later match them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vidret.store.rows_file import RowsFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A query that is asked of every video once, when it is complete.

    Attributes:
        name: Its name.
        query: Text.
        last_video: The greatest id of a video at the last report; ids only grow.
        unreported: Ids up to that one of videos that were not there or not complete then, rising.
    """

    name: str
    query: str
    last_video: int
    unreported: tuple[int, ...] = ()

    def is_new(self, video: int) -> bool:
        """Return whether a video has not been reported yet."""
        return video > self.last_video or video in self.unreported

    def move(self, contents: Mapping[str, int], target: Mapping[str, int]) -> "Watch":
        """Return this watch for another index, given the ids of videos by content in its own and in the other one.

        It still has to report there what it has not reported here, and what is not here.
        """
        new = (video for content, video in target.items() if content not in contents or self.is_new(contents[content]))
        return replace(self, last_video=max(target.values(), default=0), unreported=tuple(sorted(new)))


WATCHES = RowsFile("watches", lambda row: Watch(**{**row, "unreported": tuple(row.get("unreported", ()))}))
