"""When, where and with which camera a video was filmed, as cameras, phones and editors write it."""

from pathlib import Path

import pytest

from vidret.video.probe import probe

from .films import write_video

PHONE = {
    "com.apple.quicktime.make": "Apple",
    "com.apple.quicktime.model": "iPhone 15 Pro",
    "com.apple.quicktime.creationdate": "2024-05-01T12:30:00+0200",
    "com.apple.quicktime.location.ISO6709": "+48.1371+011.5754+519.000/",
    "creation_time": "2024-06-02T00:00:00.000000Z",
}
TAGS = {"movflags": "use_metadata_tags"}


@pytest.mark.parametrize(
    ("name", "tags", "expected"),
    [
        ("a.mov", PHONE, ("2024-05-01T12:30:00+02:00", "Apple iPhone 15 Pro", 48.1371, 11.5754)),
        ("a.mp4", {"creation_time": "2023-01-02T03:04:05.000000Z"}, ("2023-01-02T03:04:05+00:00", "", None, None)),
        (
            "a.mp4",
            {
                "location": "-33.8600+151.2100/",
                "com.android.manufacturer": "Google",
                "com.android.model": "Google Pixel 8",
            },
            ("", "Google Pixel 8", -33.86, 151.21),
        ),
        ("a.mkv", {"creation_time": "2023-01-02T03:04:05Z"}, ("2023-01-02T03:04:05+00:00", "", None, None)),
        (
            "a.mkv",
            {"date": "2023-01-02T03:04:05Z;2023-01-02T03:04:05Z", "model": "Pixel 8;Pixel 8"},
            ("2023-01-02T03:04:05+00:00", "Pixel 8", None, None),
        ),
        ("a.mkv", {"date": "2019", "location": "Munich"}, ("", "", None, None)),
        ("a.mkv", {"date": "1904-01-01T00:00:00Z", "location": "+00.0000+000.0000/"}, ("", "", None, None)),
        ("a.mkv", {"date": "2024-13-45T00:00:00Z", "location": "+95.0+011.5/"}, ("", "", None, None)),
        ("a.mkv", {}, ("", "", None, None)),
    ],
)
def test_tags_of_cameras_and_phones_are_read(
    tmp_path: Path, name: str, tags: dict[str, str], expected: tuple[object, ...]
) -> None:
    info = probe(write_video(tmp_path / name, range(3), metadata=tags, container_options=TAGS))
    assert (info.filmed, info.camera, info.latitude, info.longitude) == expected
    fact_names = {key for key in ("filmed", "camera", "latitude", "longitude") if key in info.facts()}
    assert fact_names == {"filmed", "camera"} | ({"latitude", "longitude"} if expected[2] else set())
