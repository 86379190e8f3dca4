"""What the tables of a catalog share: checksums, and the facts about the whole index."""

import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from vidret.errors import StoreError
from vidret.store.database import REPAIR, Database
from vidret.store.schema import CHECKSUM, WHOLE, last_segment, set_fact

logger = logging.getLogger(__name__)


class Rows:
    """The database of a catalog, and the table ``meta``."""

    def __init__(self, database: Database, file_format: int) -> None:
        """Take an open database and the format of its tables."""
        self.database, self.format = database, file_format
        self._left_out: set[tuple[str, object]] = set()

    # Checksums

    def whole(self, table: str) -> str:
        """Return the condition, in SQL, that a row of a table is as it was written; format 1 cannot tell."""
        return WHOLE[table] if self.format > 1 else "1"

    def seal(self, table: str, where: str, *values: object) -> None:
        """Write the checksums of rows that have just been written."""
        self.database.run(f"UPDATE {table} SET checksum = {CHECKSUM[table]} WHERE {where}", *values)

    def damaged(self, what: str) -> StoreError:
        """Return the error that names something damaged."""
        return StoreError(f"{self.database.path}: {what} is damaged (checksum); {REPAIR}")

    def keep_whole(self, table: str, rows: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
        """Leave out rows whose last value says that they are damaged, and say so once of each."""
        kept = []
        for row in rows:
            if row[-1]:
                kept.append(row)
            elif (table, row[0]) not in self._left_out:
                self._left_out.add((table, row[0]))
                logger.warning("left out: %s", self.damaged(f"the row of {row[0]!r} in {table}"))
        return kept

    # What the index is

    def meta(self, key: str) -> Any:
        """Look up one fact about the index, None where it was never set.

        Raises:
            StoreError: it is damaged.
        """
        rows = self.database.rows(f"SELECT value, {self.whole('meta')} FROM meta WHERE key = ?", key)
        if not rows:
            return None
        value, whole = rows[0]
        if not whole:
            raise self.damaged(f"the fact {key!r}")
        return value

    def fact(self, key: str) -> Any:
        """Look up a fact that every index has."""
        value = self.meta(key)
        if value is None:
            raise StoreError(f"{self.database.path}: the fact {key!r} is lost; {REPAIR}")
        return value

    def derived(self, *keys: str) -> list[Any]:
        """Look up, of one moment, what can be derived again: None where it was never set or is damaged."""
        sql = f"SELECT key, value FROM meta WHERE key IN (SELECT value FROM json_each(?)) AND {self.whole('meta')}"
        found = dict(self.database.rows(sql, json.dumps(keys)))
        return [found.get(key) for key in keys]

    def set_meta(self, key: str, value: str | int | bytes) -> None:
        """Set one fact about the index."""
        set_fact(self.database, key, value)

    def meta_keys(self, prefix: str, *, skip: int) -> list[str]:
        """List the keys that begin with a prefix, in order, without their first characters."""
        sql = "SELECT substr(key, ?2 + 1) FROM meta WHERE substr(key, 1, length(?1)) = ?1 ORDER BY key"
        return [key for (key,) in self.database.rows(sql, prefix, skip)]

    def encoder(self) -> tuple[str, str, int]:
        """Return the name, fingerprint and dim of the encoder that the index is built with."""
        return str(self.fact("encoder_name")), str(self.fact("encoder_fingerprint")), int(self.fact("dim"))

    def tail(self) -> tuple[int, int, int]:
        """Return the first rows never used, in the video file, in the frame file and in the token file."""
        row, frame_row, token_byte = json.loads(self.fact("tail"))[:3]
        return row, frame_row, token_byte

    def set_tail(self, row: int, frame_row: int, token_byte: int) -> None:
        """Set the first rows never used; the last id given to a segment is kept with them."""
        self.set_meta("tail", json.dumps([row, frame_row, token_byte, last_segment(self.database)]))

    def bump(self) -> None:
        """Count one change of what a search returns; part of the transaction that makes it."""
        change = "UPDATE meta SET value = value + 1 WHERE key = 'generation' AND"
        if not self.database.run(f"{change} {self.whole('meta')}"):
            raise self.damaged("the fact 'generation'")
        self.seal("meta", "key = 'generation'")
