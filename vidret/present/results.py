"""Results as plain dicts and as tables of pandas."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vidret.errors import MissingExtraError
from vidret.present.show import result_to_dict
from vidret.types import Hit, Moment

if TYPE_CHECKING:
    import pandas


def to_dicts(results: Iterable[Hit | Moment]) -> list[dict[str, Any]]:
    """Return hits or moments as dicts that JSON can represent: those of ``vidret search --json``."""
    return [result_to_dict(each) for each in results]


def to_pandas(results: Iterable[Hit | Moment]) -> "pandas.DataFrame":
    """Return hits or moments as a table, one row each, with the columns of ``to_dicts``.

    Raises:
        MissingExtraError: The extra ``pandas`` is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise MissingExtraError("to_pandas", "pandas") from None
    return pandas.DataFrame(to_dicts(results))
