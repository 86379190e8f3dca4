"""Several events that a query asks for in one video, and where each was found."""

from collections.abc import Sequence as AnySequence
from dataclasses import dataclass
from typing import Annotated

from vidret.types.rows import Shown

MAX_EVENTS = 8  # of one query
MAX_QUERY_LENGTH = 1000  # characters; text encoders read 77 to 256 tokens


@dataclass(frozen=True, slots=True)
class Sequence:
    """Events that follow one another in a video, in this order.

    >>> Sequence(["a man enters", ["a car leaves", "rain"]], gap=5).events
    ('a man enters', ('a car leaves', 'rain'))

    Attributes:
        events: Texts. A list of texts in place of one stands for events that happen at the same time.
        gap: Maximum time in seconds between the end of an event and the start of the next; None for any.
    """

    events: AnySequence[str | AnySequence[str]]
    gap: float | None = None

    def __post_init__(self) -> None:
        """Keep the events as tuples; a search checks them."""
        steps = tuple(tuple(event) if isinstance(event, list | tuple) else event for event in self.events)
        object.__setattr__(self, "events", steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSpan:
    """Where one event of a query was found in a video.

    Attributes:
        text: The event, as it was searched for.
        start: In seconds.
        end: In seconds.
        score: In standard deviations above what unrelated queries reach.
    """

    text: Annotated[str, Shown(example="a man enters")]
    start: Annotated[float, Shown(example=12.0)]
    end: Annotated[float, Shown(example=15.5)]
    score: Annotated[float, Shown(example=4.2)]
