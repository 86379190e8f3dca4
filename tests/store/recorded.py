"""What files say of how they were filmed, and filters that tell them apart."""

from vidret.types import Filters

# By content: filmed in Munich, 1.2 km from there, and on both sides of the date line; others say less or nothing.
FACTS: list[dict[str, object]] = [
    {"filmed": "1970-01-01T00:00:10+00:00", "camera": "Apple iPhone 15", "latitude": 48.137, "longitude": 11.575},
    {"filmed": "1970-01-01T02:00:20+02:00", "camera": "Google Pixel 8", "latitude": 48.14, "longitude": 11.59},
    {
        "filmed": "",
        "camera": "",
        "latitude": 60.0,
        "longitude": -179.99,
        "hdr": True,
        "has_audio": True,
        "languages": "de en",
        "heard": "speech\nchild speech, kid speaking\nÉclat",
    },
    {},
    {
        "width": 1080,
        "height": 1920,
        "average_rate": 59.94,
        "hdr": False,
        "has_audio": False,
        "languages": "en",
        "heard": "speech",
    },
    {"width": 480, "height": 480, "average_rate": 25.0, "latitude": 60.0, "longitude": 179.99, "hdr": False},
]
FACT_FILTERS = [
    *(Filters(filmed_after=time) for time in (0, 10, 15, 20, 25)),
    *(Filters(filmed_before=time) for time in (0, 10, 15, 20, 25)),
    Filters(filmed_after=5, filmed_before=20, folder="/a"),
    *(Filters(camera=name) for name in ("iPhone", "google pixel", "8", "nokia")),
    *(Filters(near=f"48.137,11.575,{km}") for km in (1, 1.1, 1.2, 1.5, 100)),
    *(Filters(near=f"60,180,{km}") for km in (0.5, 0.6, 2)),
    *(Filters(min_height=height) for height in (0, 480, 1000, 1921)),
    *(Filters(min_fps=rate) for rate in (25, 59.9, 60)),
    *(Filters(orientation=shape) for shape in ("landscape", "portrait", "square")),
    *(Filters(language=code) for code in ("de", "EN", "d", "de en", "")),
    *(Filters(heard=name) for name in ("Speech ", "child speech, kid speaking", "éclat", "kid", "")),
    *(Filters(sound=wanted) for wanted in (False, True)),
    *(Filters(hdr=wanted) for wanted in (False, True)),
]
