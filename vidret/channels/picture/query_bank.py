"""Lists of queries: typical ones, unrelated ones, and the banks in model files that indexes are calibrated with.

Unrelated queries have subjects that most collections lack: their scores in an index give other scores a meaning.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vidret.encode.names import parse_model_name
from vidret.errors import VidretError
from vidret.model_files import BANK, Part, read_part_cards

SENTENCES, UNRELATED = (  # written for vidret
    tuple(Path(__file__).with_name(name).read_text("utf-8").splitlines())
    for name in ("query_bank.txt", "unrelated.txt")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryBank:
    """Typical queries that a model's indexes are calibrated with; see ``Engine.calibrate``.

    Attributes:
        name: Name of the bank in reports.
        queries: The queries.
        temperature: Temperature of the Sinkhorn normalisation; None for that of the ranker.
    """

    name: str
    queries: tuple[str, ...]
    temperature: float | None = None

    def to_part(self) -> Part:
        """Return the bank as a part of a joint file."""
        return Part({"name": self.name, "queries": list(self.queries), "temperature": self.temperature}, {})


def find_model_parts(encoder: str) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Return the file that an encoder's name refers to, and the cards of the parts in it; none if it is not a file.

    Raises:
        VidretError: The file cannot be read.
    """
    path = Path(parse_model_name(encoder).base)
    if path.suffix != ".safetensors" or not path.is_file():
        return path, {}
    try:
        return path, read_part_cards(path)
    except (SafetensorError, OSError) as error:
        raise VidretError(f"{path}: {error}") from error


def find_bank(encoder: str) -> QueryBank | None:
    """Return the bank of queries in the file of an encoder; None if there is none.

    Raises:
        VidretError: The file cannot be read, or its bank is invalid.
    """
    path, cards = find_model_parts(encoder)
    if BANK not in cards:
        return None
    card = cards[BANK]
    try:
        return QueryBank(name=card["name"], queries=tuple(card["queries"]), temperature=card["temperature"])
    except (KeyError, TypeError) as error:
        raise VidretError(
            f"{path}: its bank must have a name, queries and a temperature, got {sorted(card)}"
        ) from error
