"""Tests of vidret/present/editors/otio.py: timelines are read back by OpenTimelineIO."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from tests.present.editors.numbered import FILMS, make_spoken_moment, plan, plan_unread
from tests.present.moments import ODD_PATHS, make_moment
from vidret.present.editors.otio import to_otio
from vidret.present.editors.timeline import Timeline

otio = pytest.importorskip("opentimelineio")


def read(timeline: Timeline) -> Any:
    return otio.adapters.read_from_string(to_otio(timeline), "otio_json")


def test_rates_and_timecodes_are_those_of_the_videos(numbered: dict[str, Path]) -> None:
    timeline = read(plan([make_moment(str(path)) for path in numbered.values()]))
    clips = list(timeline.video_tracks()[0].find_clips())
    for clip, (name, rate, timecode, _) in zip(clips, FILMS, strict=True):
        start = clip.available_range().start_time
        assert start.rate == float(rate)
        assert clip.name == name
        if timecode:
            assert otio.opentime.to_timecode(start) == timecode
        else:
            assert start.value == 0


def test_markers_span_the_moment_and_carry_query_score_and_words(numbered: dict[str, Path]) -> None:
    strong = make_spoken_moment(numbered["pal.mkv"], 0.4, 2)
    weak = make_spoken_moment(numbered["pal.mkv"], 3, 4, weak=True)
    first, second = read(plan([strong, weak], handles_s=1)).find_clips()
    assert (first.source_range.start_time.value, first.source_range.duration.value) == (0, 75)
    (marker,) = first.markers
    assert (marker.marked_range.start_time.value, marker.marked_range.duration.value) == (10, 40)
    assert marker.name == "second coat"
    assert marker.comment == 'score 0.813\nsaid at 0:00.4: "the second coat" <3 & 车'
    assert (marker.color, second.markers[0].color) == ("GREEN", "YELLOW")
    facts = json.loads(first.to_json_string())["metadata"]["vidret"]
    assert (facts["rank"], facts["query"], facts["moment"]["score"]) == (1, "second coat", 0.8126)
    said, seen = facts["moment"]["evidence"]
    assert (said["source"], said["text"], seen["source"]) == ("speech", '"the second\ncoat" <3 & 车', "picture")
    assert (facts["moment"]["start"], facts["moment"]["end"]) == (0.4, 2)


def test_sound_follows_the_picture_where_there_is_some(numbered: dict[str, Path]) -> None:
    names = ("film.mp4", "tape.mov", "pal.mkv", "fast.ts")
    picture, sound = read(plan([make_spoken_moment(numbered[name], 1, 2) for name in names])).tracks
    assert [type(item).__name__ for item in sound] == ["Gap", "Clip", "Gap", "Clip"]
    for seen, heard in zip(picture, sound, strict=True):
        assert seen.range_in_parent() == heard.range_in_parent()
    assert not sound[1].markers
    assert len(read(plan([make_moment(str(numbered["pal.mkv"]))])).tracks) == 1


def test_odd_names_survive_without_signatures_and_unknown_lengths_are_left_open() -> None:
    assert list(read(plan_unread([])).find_clips()) == []
    assert "5f" not in to_otio(plan_unread([make_moment("https://host/My film.mp4?signature=5f")]))
    moments = [make_moment(path if path.startswith("/") else f"/{path}") for path in ODD_PATHS]
    timeline = read(plan_unread(moments, query='a "b"\x00\n<c> & d'))
    assert timeline.name == 'a "b"\ufffd\ufffd<c> & d'
    assert timeline.metadata["vidret"]["query"] == 'a "b"\ufffd\n<c> & d'
    for clip, moment in zip(timeline.find_clips(), moments, strict=True):
        url = clip.media_reference.target_url
        assert unquote_to_bytes(url.removeprefix("file://")).decode("utf-8", "surrogateescape") == moment.path
        assert clip.media_reference.available_range is None
