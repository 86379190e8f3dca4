"""Names and times as people read them."""

import os


def printable(text: str) -> str:
    """Make any file name fit to be shown: bytes that are no text and line ends become marks."""
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shown)


def short(path: str) -> str:
    """Write a path as it can be typed here: from the current folder where it lies below it, else whole."""
    below = os.path.relpath(path)
    return printable(path if below.startswith(os.pardir) else below)


def clock(seconds: float) -> str:
    """Write a time as people read it.

    >>> clock(75.25), clock(3675)
    ('1:15.2', '1:01:15.0')
    """
    minutes, tenths = divmod(int(seconds * 10 + 1e-6), 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{tenths / 10:04.1f}" if hours else f"{minutes}:{tenths / 10:04.1f}"
