"""Fields of request bodies that several of them have."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from vidret.errors import VidretError
from vidret.search.exclusions import split_exclusions
from vidret.types import MAX_QUERY_LENGTH

MAX_ID = 2**63 - 1
YEARS = (1700, 2200)  # range of timestamps in nanoseconds


def check_excluded_terms(query: str) -> str:
    """Refuse a query that excludes too much, which would take long to encode."""
    try:
        split_exclusions(query)
    except VidretError as error:
        raise ValueError(str(error).removeprefix("query ").partition(", got")[0]) from error
    return query


def check_date(date: datetime) -> datetime:
    """Refuse a date that cannot be the time of a file."""
    if not YEARS[0] <= date.year <= YEARS[1]:
        raise ValueError(f"must lie in the years {YEARS[0]} to {YEARS[1]}")
    return date


def refuse_bool(value: object) -> object:
    """Refuse a boolean where a number is expected, which would count as 0 or 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Id = Annotated[int, Field(ge=0, le=MAX_ID, description="Id of a video."), BeforeValidator(refuse_bool)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False), BeforeValidator(refuse_bool)]
QueryText = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_LENGTH), AfterValidator(check_excluded_terms)]
Date = Annotated[datetime, AfterValidator(check_date), Field(examples=["2026-01-31", "2026-01-31T18:30:00Z"])]
