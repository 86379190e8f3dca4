"""Checksums of all tables of a catalog, and its table of metadata."""

import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from vidret.errors import MovedError, StoreError
from vidret.store.database import REPAIR, Database
from vidret.store.schema import CHECKSUM, INTACT, last_segment, set_meta

logger = logging.getLogger(__name__)

MAX_DIM = 1 << 16


class CheckedTables:
    """A catalog's database with checksums of rows, and its table ``meta``."""

    def __init__(self, database: Database, file_format: int) -> None:
        """Wrap an open database with tables of a format."""
        self.database, self.format = database, file_format
        self._warned: set[tuple[str, object]] = set()

    # Checksums

    def intact(self, table: str) -> str:
        """Return the SQL condition that a row is intact; format 1 has no checksums."""
        return INTACT[table] if self.format > 1 else "1"

    def update_checksums(self, table: str, where: str, *values: object) -> None:
        """Compute the checksums of rows that have just been written."""
        self.database.run(f"UPDATE {table} SET checksum = {CHECKSUM[table]} WHERE {where}", *values)

    def damage_error(self, what: str) -> StoreError:
        """Return the error for damaged data."""
        return StoreError(f"{self.database.path}: {what} is damaged (checksum); {REPAIR}")

    def drop_damaged(self, table: str, rows: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
        """Return the rows whose last value is true, that is, intact; warn about each damaged row once."""
        kept = []
        for row in rows:
            if row[-1]:
                kept.append(row)
            elif (table, row[0]) not in self._warned:
                self._warned.add((table, row[0]))
                logger.warning("skipped: %s", self.damage_error(f"the row of {row[0]!r} in {table}"))
        return kept

    # Metadata

    def meta(self, key: str) -> Any:
        """Return a metadata value, None if it was never set.

        Raises:
            StoreError: The value is damaged.
        """
        rows = self.database.rows(f"SELECT value, {self.intact('meta')} FROM meta WHERE key = ?", key)
        if not rows:
            return None
        value, intact = rows[0]
        if not intact:
            raise self.damage_error(f"the metadata {key!r}")
        return value

    def fact(self, key: str) -> Any:
        """Return a metadata value that every index has.

        Raises:
            StoreError: The value is damaged or missing.
        """
        value = self.meta(key)
        if value is None:
            raise StoreError(f"{self.database.path}: the metadata {key!r} is lost; {REPAIR}")
        return value

    def derived(self, *keys: str) -> list[Any]:
        """Return metadata values that can be recomputed, read together; None where never set or damaged."""
        sql = f"SELECT key, value FROM meta WHERE key IN (SELECT value FROM json_each(?)) AND {self.intact('meta')}"
        values = dict(self.database.rows(sql, json.dumps(keys)))
        return [values.get(key) for key in keys]

    def set_meta(self, key: str, value: str | int | bytes) -> None:
        """Set a metadata value."""
        set_meta(self.database, key, value)

    def meta_keys(self, prefix: str, *, skip: int) -> list[str]:
        """Return the sorted metadata keys with a prefix, without their first ``skip`` characters."""
        sql = "SELECT substr(key, ?2 + 1) FROM meta WHERE substr(key, 1, length(?1)) = ?1 ORDER BY key"
        return [key for (key,) in self.database.rows(sql, prefix, skip)]

    def encoder(self) -> tuple[str, str, int]:
        """Return the name, fingerprint and dimension of the encoder of the index.

        Raises:
            StoreError: A value is damaged, missing or impossible.
        """
        dim = self.fact("dim")
        if not isinstance(dim, int) or not 1 <= dim <= MAX_DIM:
            raise StoreError(f"{self.database.path}: dim must be a number from 1 to {MAX_DIM}, got {dim!r}")
        return str(self.fact("encoder_name")), str(self.fact("encoder_fingerprint")), dim

    def check_fingerprint(self, fingerprint: str) -> None:
        """Check that the index still has the encoder with which it was opened.

        Raises:
            MovedError: Another process has moved it to another one.
        """
        name, current, _ = self.encoder()
        if current != fingerprint:
            raise MovedError(f"{self.database.path.parent}: has moved to the encoder {name}; open it again")

    def tail(self) -> tuple[int, int, int]:
        """Return the next free segment row, frame row and token byte.

        Raises:
            StoreError: They are damaged, missing or impossible.
        """
        text = self.fact("tail")
        try:
            row, frame_row, token_byte = (max(0, int(each)) for each in json.loads(text)[:3])
        except (ValueError, TypeError) as error:
            raise StoreError(f"{self.database.path}: tail must be three numbers, got {text!r}") from error
        return row, frame_row, token_byte

    def set_tail(self, row: int, frame_row: int, token_byte: int) -> None:
        """Set the next free rows and byte; the last segment id is stored with them."""
        self.set_meta("tail", json.dumps([row, frame_row, token_byte, last_segment(self.database)]))

    def increment_generation(self) -> None:
        """Increment the generation, in the transaction that changes what searches return."""
        update = "UPDATE meta SET value = value + 1 WHERE key = 'generation' AND"
        if not self.database.run(f"{update} {self.intact('meta')}"):
            raise self.damage_error("the metadata 'generation'")
        self.update_checksums("meta", "key = 'generation'")
