"""When and where a video was filmed, and with which camera, as its container says."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

FIRST_YEAR, LAST_YEAR = 1990, 2100  # of digital cameras; the clocks of others are not set
# The first that a file has. Apple's has the time zone of the place; QuickTime's and Matroska's are in UTC.
DATE_KEYS = ("com.apple.quicktime.creationdate", "creation_time", "date", "date_utc")
PLACE_KEYS = ("com.apple.quicktime.location.iso6709", "location", "location-eng")
MAKE_KEYS = ("com.apple.quicktime.make", "com.android.manufacturer", "make")
MODEL_KEYS = ("com.apple.quicktime.model", "com.android.model", "model", "camera_model_name")
MAX_CAMERA = 60  # characters


def read_recording(container: Any, stream: Any) -> dict[str, str | float | None]:
    """Return ``filmed``, ``camera``, ``latitude`` and ``longitude`` of ``VideoInfo``.

    They are read from an open container of PyAV and its video stream; tags of the container come first.
    """
    # FFmpeg 9 joins the values of a tag that a file has twice, such as a date in its header and in a tag of its own.
    pairs = (pair for part in (stream, container) for pair in part.metadata.items())
    tags = {key.lower(): value.partition(";")[0].strip() for key, value in pairs}
    latitude, longitude = parse_place(_find(tags, PLACE_KEYS)) or (None, None)
    make, model = _find(tags, MAKE_KEYS), _find(tags, MODEL_KEYS)
    camera = model if model.casefold().startswith(make.casefold()) else f"{make} {model}".strip()
    dates = (parse_date(tags.get(key, "")) for key in DATE_KEYS)
    filmed = next(filter(None, dates), "")
    return {"filmed": filmed, "camera": camera[:MAX_CAMERA], "latitude": latitude, "longitude": longitude}


def _find(tags: Mapping[str, str], keys: tuple[str, ...]) -> str:
    return next((tags[key] for key in keys if tags.get(key)), "")


def parse_date(text: str) -> str:
    """Return a date and time with a time zone, UTC if it has none; empty if it is no time of a recording.

    >>> parse_date("2024-05-01T12:00:00+0200"), parse_date("2024-05-01T10:00:00.000000Z"), parse_date("2019")
    ('2024-05-01T12:00:00+02:00', '2024-05-01T10:00:00+00:00', '')
    >>> parse_date("1904-01-01T00:00:00Z"), parse_date("2024-05-01")
    ('', '2024-05-01T00:00:00+00:00')
    """
    if re.match(r"\d{4}-\d\d-\d\d", text) is None:
        return ""
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return ""
    date = date.replace(microsecond=0, tzinfo=date.tzinfo or UTC)
    return date.isoformat() if FIRST_YEAR <= date.year < LAST_YEAR else ""


def parse_place(text: str) -> tuple[float, float] | None:
    """Return latitude and longitude in degrees of a place in the form of ISO 6709, None if it is not one.

    >>> parse_place("+48.1371+011.5754+519.000/"), parse_place("-33.86+151.21/"), parse_place("Munich")
    ((48.1371, 11.5754), (-33.86, 151.21), None)
    """
    match = re.match(r"([+-]\d{1,2}(?:\.\d+)?)([+-]\d{1,3}(?:\.\d+)?)(?![\d.])", text)
    if match is None:
        return None
    latitude, longitude = map(float, match.groups())
    is_place = abs(latitude) <= 90 and abs(longitude) <= 180 and (latitude, longitude) != (0, 0)
    return (latitude, longitude) if is_place else None
