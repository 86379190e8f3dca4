"""Self-contained HTML pages: escaped text, the style sheet, tables, and frames of videos as images."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path

from vidret.errors import DecodeError
from vidret.present.terminal import writing
from vidret.text import sanitize, show_path
from vidret.video.images import draw_frame
from vidret.video.probe import probe

Table = tuple[Sequence[str], list[list[str]]]  # names of columns, and lines of cells

# Keeps the page from loading anything, even if a name in it contains a URL.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

# Supports light and dark mode, and narrow screens.
STYLE = """
:root { color-scheme: light dark; --paper: #fafaf8; --card: #ffffff; --ink: #18181c; --faint: #5f5f69;
  --line: #dededb; --first: #2654a0; --second: #b4510e; --right: #1c7c4a; --found: #d08a12; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #151518; --card: #1e1e23; --ink: #ececee; --faint: #a2a2ad;
    --line: #35353d; --first: #7ba7f0; --second: #f0a066; --right: #58c48b; --found: #e6b04a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.6rem; margin: 0 0 12px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 36px 0 10px; }
h3 { font-size: 1rem; margin: 0; }
dl { display: grid; grid-template-columns: fit-content(45%) 1fr; gap: 2px 16px; margin: 0; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
.note { border-left: 4px solid var(--found); padding: 4px 12px; margin: 12px 0 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 16px 4px 0; border-bottom: 1px solid var(--line); white-space: pre; }
th { color: var(--faint); font-weight: 500; }
.number { text-align: right; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 16px;
  margin-top: 36px; }
.plots figure { margin: 0; max-width: 540px; }
figcaption { color: var(--faint); font-size: 0.85rem; }
svg { display: block; width: 100%; height: auto; }
.timeline { max-width: 720px; margin-bottom: 8px; }
svg text { fill: var(--faint); font: 12px system-ui, sans-serif; }
.grid, .tick { stroke: var(--line); }
.axis { stroke: var(--faint); }
.curve { fill: none; stroke-width: 2.5; stroke-linejoin: round; stroke: var(--first); }
.curve-1 { stroke: var(--second); }
.bar { fill: var(--first); }
.lane { fill: var(--line); opacity: 0.5; }
.true { fill: var(--right); }
.found { fill: var(--found); }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px;
  margin: 0 0 14px; }
.facts { color: var(--faint); font-size: 0.9rem; margin: 0 0 8px; overflow-wrap: anywhere; }
.wide + .facts { margin-top: 20px; }
.shots { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; }
.shot { margin: 0; overflow-wrap: anywhere; line-height: 1.3; }
.shot b { font-weight: 500; color: var(--ink); }
.shot img, .unread { display: block; width: 100%; height: auto; aspect-ratio: 16 / 9; object-fit: contain;
  margin: 0 0 4px; background: #000 padding-box; border-radius: 4px; }
.unread { background: var(--line); padding: 8px; font-size: 0.85rem; }
.right img { box-shadow: 0 0 0 3px var(--right); }
details { margin: 4px 0; }
summary { cursor: pointer; }
li { overflow-wrap: anywhere; }
"""


def escape_text(text: object) -> str:
    """Return any text escaped for HTML, without control characters."""
    return escape(sanitize(str(text)))


def render_facts(facts: Iterable[tuple[str, object]]) -> str:
    """Return names and values as a list in HTML."""
    items = (f"<dt>{escape_text(name)}</dt><dd>{escape_text(value)}</dd>" for name, value in facts)
    return f"<dl>{''.join(items)}</dl>"


def render_table(table: Table) -> str:
    """Return a table in HTML; columns of numbers are aligned to the right."""
    columns, lines = table
    is_text = [any(line[index] and not is_number(line[index]) for line in lines) for index in range(len(columns))]

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = ("" if text else ' class="number"' for text in is_text)
        return "".join(f"<{tag}{kind}>{escape_text(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    body = "".join(f"<tr>{row(line, 'td')}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{row(columns, "th")}</tr></thead><tbody>{body}</tbody></table></div>'


def is_number(text: str) -> bool:
    """Return whether a cell contains a number, which may have a sign and be a percentage."""
    return text.removesuffix(" %").lstrip("+-").replace(".", "", 1).isdigit()


def render_document(title: str, sections: Iterable[str], *, style: str = "") -> str:
    """Return sections of HTML as one page; ``style`` is added to its style sheet."""
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape_text(title)}</title><style>{STYLE}{style}</style></head>\n<body><main>\n" + "\n".join(sections)
    )
    return f"{page}\n</main></body></html>\n"


def write_document(title: str, sections: Iterable[str], out: Path, *, style: str = "") -> None:
    """Write sections of HTML as one page; see ``render_document``."""
    with writing(out):
        out.write_text(render_document(title, sections, style=style), "utf-8")


IMAGE_SIZE = (256, 144)


class FrameImages:
    """Frames of videos as HTML images with embedded data, each decoded once."""

    def __init__(self, files: Mapping[str, Path] | None = None, *, size: tuple[int, int] = IMAGE_SIZE) -> None:
        """Store the paths of videos by id; any other id is taken as a path. Nothing is read yet.

        ``size`` is the width and height in pixels that an image fits in.
        """
        self._files, self._size = files or {}, size
        self._probe = lru_cache(maxsize=16)(probe)  # frames of the same video are close together on a page
        self._cache: dict[tuple[str, float | None], str] = {}

    def render(self, video_id: str, time_s: float | None, title: str, line: str, kind: str) -> str:
        """Return a figure with a frame, see ``read``, two lines as its caption, and an additional CSS class."""
        image = self.read(video_id, time_s)
        caption = f"<b>{escape_text(title)}</b><br>{escape_text(line)}"
        return f'<figure class="shot {kind}">{image}<figcaption>{caption}</figcaption></figure>'

    def read(self, video_id: str, time_s: float | None) -> str:
        """Return an image of the frame at a time, None for the middle, or a paragraph with why it is unreadable."""
        if (video_id, time_s) not in self._cache:
            self._cache[video_id, time_s] = self._read(video_id, time_s)
        return self._cache[video_id, time_s]

    def _read(self, video_id: str, time_s: float | None) -> str:
        try:
            info = self._probe(str(self._files.get(video_id, video_id)))
            middle_s = info.start + info.shown_seconds / 2
            jpeg = draw_frame(info, middle_s if time_s is None else time_s, *self._size)
        except DecodeError as error:
            return f'<p class="unread">{escape_text(error.reason)}</p>'
        data = base64.b64encode(jpeg).decode()
        return f'<img alt="{escape_text(show_path(video_id))}" src="data:image/jpeg;base64,{data}">'
