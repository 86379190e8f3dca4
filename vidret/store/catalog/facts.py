"""Filters by the facts of a video: time and place of filming, camera, format, languages and sounds."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from vidret.errors import OptionError
from vidret.store.records import HEARD, LANGUAGES, SEPARATORS
from vidret.types import ALL_VIDEOS, NO_TIME, Filters

KM_PER_DEGREE = 111.2
NEAR_KM = 10.0  # around a place given without a distance
ORIENTATIONS = ("portrait", "square", "landscape")
COMMON = frozenset(("folder", "name", "min_seconds", "max_seconds", "after", "before"))  # applied by the catalog
CAMERA_BYTES = 60
LIST_BYTES = {LANGUAGES: 40, HEARD: 200}  # of the codes of ten languages, and the names of about fifteen sounds
NUMBERS = ("latitude", "longitude", "width", "height", "average_rate", "has_audio", "hdr")
FACT_ROW = np.dtype(
    [
        ("filmed_s", np.float64),
        *((name, np.float64) for name in NUMBERS),
        ("camera", f"S{CAMERA_BYTES}"),
        *((name, f"S{num_bytes}") for name, num_bytes in LIST_BYTES.items()),
    ]
)


def _read(name: str, kind: str) -> str:
    """Return the SQL of a fact, NULL where it is unknown or the row is damaged."""
    return f"CAST(CASE WHEN json_valid(facts) THEN json_extract(facts, '$.{name}') END AS {kind})"


FACT_VALUES = ", ".join(
    (
        f"CAST(strftime('%s', {_read('filmed', 'TEXT')}) AS REAL)",
        *(_read(name, "REAL") for name in NUMBERS),
        *(
            f"ifnull(substr({_read(name, 'BLOB')}, 1, {num_bytes}), x'')"
            for name, num_bytes in (("camera", CAMERA_BYTES), *LIST_BYTES.items())
        ),
    )
)


def has_fact_filters(filters: Filters) -> bool:
    """Return whether filters use more than path, duration and modification time."""
    return replace(filters, **dict.fromkeys(COMMON)) != ALL_VIDEOS


def stack_facts(values: Sequence[Sequence[object]]) -> np.ndarray:
    """Return rows of ``FACT_VALUES`` as ``FACT_ROW``, with NaN for NULL."""
    rows = np.zeros(len(values), FACT_ROW)
    for name, column in zip(FACT_ROW.names or (), zip(*values, strict=True), strict=False):  # no rows, no columns
        rows[name] = np.array(column, FACT_ROW[name])
    return rows


def to_seconds(times_ns: Sequence[int | None] | Int64[np.ndarray, " file"]) -> Float64[np.ndarray, " file"]:
    """Return modification times in seconds, NaN for unknown ones."""
    times = np.array(times_ns, np.float64)
    return np.where(times > NO_TIME, times / 1e9, np.nan)


def parse_near(near: str) -> tuple[float, float, float]:
    """Return latitude and longitude in degrees, and a distance in kilometres.

    >>> parse_near("48.1,11.6"), parse_near("-33.9,151.2,0.5")
    ((48.1, 11.6, 10.0), (-33.9, 151.2, 0.5))

    Raises:
        VidretError: The text is not ``LAT,LON`` or ``LAT,LON,KM``, or a number is out of range.
    """
    try:
        numbers = [float(part) for part in near.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) in (2, 3) and abs(numbers[0]) <= 90 and abs(numbers[1]) <= 180 and np.isfinite(numbers).all():
        latitude, longitude, km = (*numbers, NEAR_KM)[:3]
        if km > 0:
            return latitude, longitude, km
    raise OptionError(f"near must be LAT,LON or LAT,LON,KM in degrees and kilometres, got {near}")


def match_facts(
    filters: Filters, facts: np.ndarray, changed_s: Float64[np.ndarray, " file"]
) -> Bool[np.ndarray, " file"]:
    """Return a mask of the files whose facts match filters; an unknown fact does not match.

    Args:
        filters: Filters; those by path, duration and modification time are ignored.
        facts: The facts of each file's video, of type ``FACT_ROW``.
        changed_s: Modification time in seconds since 1970, NaN if unknown: used for files without a time of filming.

    Raises:
        VidretError: ``near`` or ``orientation`` cannot be understood.
    """
    matching = np.ones(len(facts), bool)
    filmed_s = np.where(np.isnan(facts["filmed_s"]), changed_s, facts["filmed_s"])
    if filters.filmed_after is not None:
        matching &= filmed_s >= filters.filmed_after
    if filters.filmed_before is not None:
        matching &= filmed_s < filters.filmed_before
    if filters.near is not None:
        latitude, longitude, km = parse_near(filters.near)
        matching &= measure_km(latitude, longitude, facts["latitude"], facts["longitude"]) <= km
    for name, minimum in (("height", filters.min_height), ("average_rate", filters.min_fps)):
        if minimum is not None:
            matching &= facts[name] >= minimum
    for name, wanted in (("has_audio", filters.sound), ("hdr", filters.hdr)):
        if wanted is not None:
            matching &= facts[name] == float(wanted)
    if filters.orientation is not None:
        if filters.orientation not in ORIENTATIONS:
            rule = f"orientation must be {', '.join(ORIENTATIONS[:-1])} or {ORIENTATIONS[-1]}"
            raise OptionError(f"{rule}, got {filters.orientation}")
        matching &= np.sign(facts["width"] - facts["height"]) == ORIENTATIONS.index(filters.orientation) - 1
    if filters.camera is not None:
        wanted_name = filters.camera.strip().casefold()
        matching &= match_texts(facts["camera"], lambda name: wanted_name in name.casefold())
    for name, listed in ((LANGUAGES, filters.language), (HEARD, filters.heard)):
        if listed is not None:
            matching &= match_texts(facts[name], functools.partial(_lists, name, listed.strip().casefold()))
    return matching


def _lists(name: str, wanted: str, fact: str) -> bool:
    return wanted in fact.casefold().split(SEPARATORS[name])


def match_texts(texts: np.ndarray, matches: Callable[[str], bool]) -> Bool[np.ndarray, " file"]:
    """Return a mask of the texts that match and are not empty; each distinct one is tested once."""
    names, codes = np.unique(texts, return_inverse=True)
    is_match: Bool[np.ndarray, " name"] = np.array(
        [bool(name) and matches(name.decode(errors="replace")) for name in names.tolist()], bool
    )
    return is_match[codes]


def measure_km(
    latitude: float,
    longitude: float,
    latitudes: Float64[np.ndarray, " place"],
    longitudes: Float64[np.ndarray, " place"],
) -> Float64[np.ndarray, " place"]:
    """Return the great-circle distances in kilometres of places from one, in degrees; NaN for unknown places."""
    here, there = np.radians(latitude), np.radians(latitudes)
    half = np.radians(longitudes - longitude) / 2
    square = np.sin((there - here) / 2) ** 2 + np.cos(here) * np.cos(there) * np.sin(half) ** 2
    distances: Float64[np.ndarray, " place"] = np.degrees(2 * np.arcsin(np.sqrt(np.clip(square, 0, 1)))) * KM_PER_DEGREE
    return distances
