"""Tests of the tools without the protocol: budgets, pages, refusals."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("mcp", reason="needs the extra mcp")

from tests.serve.conftest import find_id
from vidret.encode.families import starter
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.language.retrieval import DrawFrame
from vidret.serve.mcp.arguments import MIN_CHARACTERS, Budget, fit_page
from vidret.serve.mcp.protocol import PAGE_SIZE, list_links, read_link
from vidret.serve.mcp.tools import ToolBox, open_frames
from vidret.store.records import StoredVideo
from vidret.types import Evidence, Hit, LocateOptions, Moment, SearchOptions, Segment, TimedText

# Every character takes two in JSON.
LONG = '"' * 2000
NUM_RESULTS = 1000


class HugeEngine:
    """An engine whose every answer has a thousand entries with long texts."""

    def __init__(self) -> None:
        self.evidence = tuple(Evidence(source="speech", start=0.0, end=1.0, share=0.2, text=LONG) for _ in range(5))
        paths = [f"/{LONG}/{i}.mp4" for i in range(NUM_RESULTS)]
        self._videos = [StoredVideo(i, (path,), 9999.0, {}, True, "", 1, None) for i, path in enumerate(paths)]

    def search_with(self, query: str, options: SearchOptions) -> list[Hit]:
        numbers = range(NUM_RESULTS)[options.offset : options.offset + options.k]
        return [Hit(i, f"/{LONG}/{i}.mp4", Segment(i, 0, 0, 9), 1.0, 0.5, evidence=self.evidence) for i in numbers]

    def locate_with(self, query: str, options: LocateOptions, *, video: int | None) -> list[Moment]:
        numbers = range(NUM_RESULTS)[options.offset : options.offset + options.k]
        return [Moment(i, f"/{LONG}/{i}.mp4", 1.0, 2.0, 0.5, evidence=self.evidence) for i in numbers]

    def list_search_notes(self, query: str, options: object) -> list[str]:
        return [LONG]

    def video(self, number: int) -> StoredVideo:
        return self.videos()[number]

    def videos(self) -> list[StoredVideo]:
        return self._videos

    def transcript(self, video: int, sources: object = None) -> list[TimedText]:
        return [TimedText(float(i), i + 1.0, LONG, "speech") for i in range(NUM_RESULTS)]

    def shots(self, video: int) -> Sequence[Any]:
        return [Segment(video, i, float(i), i + 1.0) for i in range(NUM_RESULTS)]


def draw_huge(bytes_per_pixel: int) -> DrawFrame:
    """Return a function that draws images of a size that only depends on their width."""
    return lambda video, time_s, width: bytes(width * bytes_per_pixel)


@pytest.fixture
def huge() -> ToolBox:
    budget = Budget(characters=MIN_CHARACTERS, images=3, image_bytes=10_000)
    return ToolBox(cast(Any, HugeEngine()), draw_huge(30), budget)


@pytest.fixture
def tools(engine: Engine) -> Iterator[ToolBox]:
    with open_frames(engine) as draw:
        yield ToolBox(engine, draw, Budget())


PAGED = [
    ("search", {"query": "a", "k": 200}, "videos"),
    ("locate", {"query": "a", "k": 200}, "moments"),
    ("transcript", {"video": 1}, "lines"),
    ("describe_video", {"video": 1}, "shots"),
    ("list_videos", {"limit": 200}, "videos"),
]


@pytest.mark.parametrize(("name", "arguments", "rows"), PAGED)
def test_pages_keep_to_the_budget_and_miss_nothing(
    huge: ToolBox, name: str, arguments: dict[str, Any], rows: str
) -> None:
    seen: list[float] = []
    offset: int | None = 0
    for _ in range(NUM_RESULTS):
        text = huge.call(name, {**arguments, "offset": offset}).text
        assert len(text) <= MIN_CHARACTERS
        answer = json.loads(text)
        seen += [row.get("video", row.get("start")) for row in answer[rows]]
        assert answer[rows] or offset == NUM_RESULTS
        offset = answer["next_offset"]
        if offset is None:
            break
    assert seen == list(range(NUM_RESULTS))


def test_what_a_search_notes_is_told(tools: ToolBox, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "_noted", {engine.encoder.name})
    for name in ("search", "locate"):
        (note,) = json.loads(tools.call(name, {"query": "der Hund und die Katze"}).text)["notes"]
        assert note == starter.NOTE % (engine.encoder.name, "der Hund und die Katze")
        assert "notes" not in json.loads(tools.call(name, {"query": "red"}).text)


def test_images_are_few_and_small_and_those_that_cannot_be_are_said(huge: ToolBox) -> None:
    reply = huge.call("frames", {"video": 1, "times": [1, 2, 3, 4, 5], "width": 600})
    assert [len(image) for image in reply.images] == [9000] * 3  # 600 pixels would be 18,000 bytes
    answer = json.loads(reply.text)
    assert [row["image"] for row in answer["frames"]] == [1, 2, 3]
    assert answer["next_times"] == [4, 5]
    reply = ToolBox(huge.engine, draw_huge(10_000), huge.budget).call("frames", {"video": 1, "times": [1]})
    assert reply.images == ()
    assert json.loads(reply.text)["frames"] == [{"time": 1.0, "failed": "larger than 10000 bytes"}]


def test_times_beyond_the_end_have_no_image(huge: ToolBox) -> None:
    end_s = huge.engine.video(1).duration
    reply = huge.call("frames", {"video": 1, "times": [end_s, end_s + 0.02, 1]})
    last, beyond, within = json.loads(reply.text)["frames"]
    assert (last["image"], within["image"], len(reply.images)) == (1, 2, 2)
    assert beyond["failed"] == f"time must be at most {round(end_s, 2)}, the end of the video"


def test_page_ends_at_the_largest_offset() -> None:
    rows = [{"a": 1}] * 3
    assert json.loads(fit_page({}, "rows", rows, 4000, offset=7, more=True))["next_offset"] == 10
    assert json.loads(fit_page({}, "rows", rows, 4000, offset=7, more=True, last=9))["next_offset"] is None
    assert json.loads(fit_page({}, "rows", rows, 4000, offset=7, more=False))["next_offset"] is None


def test_budget_that_holds_nothing_is_refused() -> None:
    with pytest.raises(VidretError, match="characters must be at least 4000, got 10"):
        Budget(characters=10)
    with pytest.raises(VidretError, match="images must be at least 0, got -1"):
        Budget(images=-1)


def test_invalid_calls_are_refused_in_one_sentence(tools: ToolBox) -> None:
    for name, arguments, rule in (
        ("delete", {}, "tool must be one of search, locate"),
        ("search", {}, "query must be given, got {}"),
        ("search", {"query": "a", "k": 0}, "k must be at least 1, got 0"),
        ("search", {"query": "a", "path": "/etc/passwd"}, "path must not be given"),
        ("search", {"query": "a", "sources": ["smell"]}, "sources"),
        ("search", {"query": "-red " * 20}, "must exclude at most 16"),
        ("frames", {"video": 1, "times": []}, "times"),
        ("frames", {"video": 1, "times": [-1]}, "times"),
        ("frames", {"video": 10**6, "times": [1]}, "video must be one of this index, got 1000000"),
        ("transcript", {"video": 1, "start": 5, "end": 4}, "start must be at most the end, 4, got 5"),
        ("transcript", {"video": 1, "start": 9999}, "start must be at most the end, "),
        ("transcript", {"video": "/etc/passwd"}, "video must be a valid integer, got '/etc/passwd'"),
    ):
        with pytest.raises(VidretError) as refused:
            tools.call(name, arguments)
        assert rule in str(refused.value)
        assert "\n" not in str(refused.value)


def test_tools_answer_what_the_engine_answers(tools: ToolBox, engine: Engine) -> None:
    found = json.loads(tools.call("search", {"query": "red", "k": 2}).text)
    assert [row["video"] for row in found["videos"]] == [hit.video for hit in engine.search("red", 2)]
    both = find_id(engine, "both.mp4")
    moments = json.loads(tools.call("locate", {"query": "red", "video": both}).text)["moments"]
    best = engine.locate("red", video=both)[0]
    assert (moments[0]["start"], moments[0]["end"]) == (round(best.start, 2), round(best.end, 2))
    about = json.loads(tools.call("describe_video", {"video": both}).text)
    assert (about["title"], about["width"], about["total_shots"]) == ("both", 64, len(engine.shots(both)))
    listed = json.loads(tools.call("list_videos", {"contains": "BOTH"}).text)
    assert [row["video"] for row in listed["videos"]] == [both]


def test_file_behind_a_new_link_is_not_drawn(own_engine: Engine, tmp_path: Path) -> None:
    video = own_engine.video(find_id(own_engine, "red.mp4"))
    film, other = Path(video.paths[0]), tmp_path / "own" / "films" / "blue.mp4"
    film.unlink()
    film.symlink_to(other)
    with open_frames(own_engine) as draw:
        reply = ToolBox(own_engine, draw, Budget()).call("frames", {"video": video.id, "times": [1]})
    assert reply.images == ()
    assert "lies behind a link" in reply.text


def test_resources_are_paged_and_read(tools: ToolBox, huge: ToolBox, engine: Engine) -> None:
    links, cursor = list_links(huge, None)
    assert len(links) == PAGE_SIZE
    assert next(iter(list_links(huge, cursor)[0])) == f"vidret://videos/{PAGE_SIZE}"
    assert list_links(huge, str(NUM_RESULTS - 1))[1] is None
    with pytest.raises(VidretError, match="cursor must be"):
        list_links(huge, "../1")
    both = find_id(engine, "both.mp4")
    assert json.loads(read_link(tools, f"vidret://videos/{both}").text)["title"] == "both"
    assert len(read_link(tools, f"vidret://videos/{both}/moments/5-9").images) == 1
    for uri in ("file:///etc/passwd", "vidret://videos/x", f"vidret://videos/{both}/moments/5"):
        with pytest.raises(VidretError, match="uri must be like"):
            read_link(tools, uri)
