"""Resources: each video as a description, and each moment as its words and its middle frame."""

import re
from dataclasses import dataclass

from vidret.errors import VidretError
from vidret.serve.mcp.arguments import DescribeArguments, FramesArguments, TranscriptArguments
from vidret.serve.mcp.budget import shorten
from vidret.serve.mcp.tools import TITLE_LENGTH, ToolBox, ToolReply
from vidret.serve.rows import title

PAGE_SIZE = 100
VIDEO_TEMPLATE = "vidret://videos/{video}"
MOMENT_TEMPLATE = "vidret://videos/{video}/moments/{start}-{end}"
_VIDEO = re.compile(r"vidret://videos/(\d{1,18})")
_NUMBER = r"\d{1,9}(?:\.\d{1,6})?"
_MOMENT = re.compile(rf"vidret://videos/(\d{{1,18}})/moments/({_NUMBER})-({_NUMBER})")


@dataclass(frozen=True, slots=True)
class VideoLink:
    """The address of a video, and its title."""

    uri: str
    title: str


def list_links(tools: ToolBox, cursor: str | None) -> tuple[list[VideoLink], str | None]:
    """Return a page of the videos, and the cursor of the next page, None after the last.

    Raises:
        VidretError: The cursor is not one that this function returned.
    """
    if cursor is not None and not re.fullmatch(r"\d{1,18}", cursor):
        raise VidretError(f"cursor must be one of an earlier page, got {shorten(cursor, 60)}")
    offset = int(cursor or 0)
    videos = tools.engine.videos()
    page = videos[offset : offset + PAGE_SIZE]
    links = [VideoLink(f"vidret://videos/{each.id}", shorten(title(each.paths[0]), TITLE_LENGTH)) for each in page]
    following = offset + len(page)
    return links, str(following) if following < len(videos) else None


def read_link(tools: ToolBox, uri: str) -> ToolReply:
    """Return what a resource holds.

    Raises:
        VidretError: The address is malformed, or there is no such video.
    """
    if found := _VIDEO.fullmatch(uri):
        return tools.describe(DescribeArguments(video=int(found[1])))
    if found := _MOMENT.fullmatch(uri):
        video, start, end = int(found[1]), float(found[2]), float(found[3])
        words = tools.read_words(TranscriptArguments(video=video, start=start, end=end))
        images: tuple[bytes, ...] = ()
        if tools.budget.images:
            images = tools.look_at(FramesArguments(video=video, times=[(start + end) / 2])).images
        return ToolReply(words.text, images)
    raise VidretError(f"uri must be like {VIDEO_TEMPLATE} or {MOMENT_TEMPLATE}, got {shorten(uri, 100)}")
