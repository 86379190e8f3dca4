"""Tests of vidret/present/editors/fcpxml.py: projects are read back as exact fractions, and by OpenTimelineIO."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import pytest

from tests.present.editors.numbered import FILM, NTSC, list_wanted, make_spoken_moment, plan, plan_unread, read_shown
from tests.present.moments import ODD_PATHS, make_moment
from vidret.present.editors.fcpxml import to_fcpxml


@dataclass(frozen=True)
class ReadClip:
    """A clip of a project: its elements, and its times in seconds."""

    element: ElementTree.Element
    asset: ElementTree.Element
    rate: Fraction
    offset: Fraction
    start: Fraction
    duration: Fraction

    @property
    def path(self) -> str:
        return unquote_to_bytes(self.asset.attrib["src"].removeprefix("file://")).decode("utf-8", "surrogateescape")

    @property
    def marker(self) -> ElementTree.Element:
        (marker,) = self.element.findall("marker")
        return marker


def read_time(text: str) -> Fraction:
    assert text.endswith("s")
    return Fraction(text[:-1])


def read_project(text: str) -> tuple[ElementTree.Element, Fraction, list[ReadClip]]:
    """Return the sequence of a project, its rate and its clips."""
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n')
    root = ElementTree.fromstring(text.encode())
    resources = root.findall("resources/*")
    by_id = {resource.attrib["id"]: resource for resource in resources}
    assert len(by_id) == len(resources), "ids are unique"
    sequence = root.find("event/project/sequence")
    assert sequence is not None

    def rate_of(element: ElementTree.Element) -> Fraction:
        return 1 / read_time(by_id[element.attrib["format"]].attrib["frameDuration"])

    clips = []
    for element in sequence.findall("spine/*"):
        asset = by_id[element.attrib["ref"]]
        times = (read_time(element.attrib[name]) for name in ("offset", "start", "duration"))
        clips.append(ReadClip(element, asset, rate_of(asset), *times))
    return sequence, rate_of(sequence), clips


def test_clips_have_the_frames_of_their_moments(numbered: dict[str, Path]) -> None:
    moments = [make_spoken_moment(path, at, at + 0.7) for path in numbered.values() for at in (0.0, 0.31, 1.3, 2.45)]
    timeline = plan(moments)
    sequence, rate, clips = read_project(to_fcpxml(timeline))
    assert rate == timeline.rate
    end = Fraction(0)
    for clip, moment in zip(clips, moments, strict=True):
        assert clip.path == moment.path
        shown = read_shown(Path(clip.path))
        zero = read_time(clip.asset.attrib["start"])
        assert (read_time(clip.asset.attrib["duration"]) * clip.rate) == len(shown)
        at, length_s = (read_time(clip.marker.attrib[name]) for name in ("start", "duration"))
        start, marked, length = (time * clip.rate for time in (clip.start - zero, at - zero, length_s))
        assert start.denominator == marked.denominator == length.denominator == 1, "whole frames of the film"
        numbers = [frame_number for frame_number, _ in shown[int(marked) : int(marked + length)]]
        assert numbers == list_wanted(shown, moment.start, moment.end)
        assert clip.offset == end
        assert (clip.duration * rate).denominator == 1, "whole frames of the timeline"
        assert abs(clip.duration - length / clip.rate) <= 1 / (2 * rate)
        end += clip.duration
    assert read_time(sequence.attrib["duration"]) == end


def test_rates_timecodes_and_sound_are_stated(numbered: dict[str, Path]) -> None:
    names = ("tape.mov", "film.mp4", "pal.mkv", "slow.mp4", "fast.ts")
    timeline = plan([make_moment(str(numbered[name])) for name in names], fps=29.97)
    sequence, rate, clips = read_project(to_fcpxml(timeline))
    assert rate == NTSC
    assert (sequence.attrib["tcFormat"], sequence.attrib["tcStart"]) == ("DF", "0s")
    assert [clip.rate for clip in clips] == [NTSC, FILM, 25, Fraction(25, 2), Fraction(60000, 1001)]
    assert [clip.element.attrib["tcFormat"] for clip in clips] == ["DF", "NDF", "NDF", "NDF", "DF"]
    starts = [read_time(clip.asset.attrib["start"]) * clip.rate for clip in clips]
    assert starts == [107842, 86400, 0, 0, 0]
    assert [clip.asset.get("hasAudio") for clip in clips] == ["1", None, None, None, "1"]
    conform = [clip.element.find("conform-rate") for clip in clips]
    assert [None if rate is None else rate.attrib for rate in conform] == [
        None,
        {"scaleEnabled": "0", "srcFrameRate": "23.98"},
        {"scaleEnabled": "0", "srcFrameRate": "25"},
        {"scaleEnabled": "0"},
        {"scaleEnabled": "0", "srcFrameRate": "59.94"},
    ]


def test_markers_are_inside_handles_and_carry_query_score_and_words(numbered: dict[str, Path]) -> None:
    _, _, (clip,) = read_project(to_fcpxml(plan([make_moment(str(numbered["pal.mkv"]), 0.4, 2)], handles_s=1)))
    assert (clip.start, clip.duration) == (Fraction(0), Fraction(3))
    assert (clip.marker.attrib["start"], clip.marker.attrib["duration"]) == ("2/5s", "8/5s")
    _, _, (clip,) = read_project(to_fcpxml(plan_unread([make_spoken_moment("/films/a.mp4", 75.25, 80)])))
    assert clip.marker.attrib["value"] == "second coat"
    assert clip.marker.attrib["note"] == 'score 0.813; said at 1:15.2: "the second coat" <3 & 车'
    assert read_time(clip.asset.attrib["duration"]) == 80, "of a film whose length is unknown, as long as needed"


def test_odd_names_survive() -> None:
    moments = [make_moment(path if path.startswith("/") else f"/{path}") for path in ODD_PATHS]
    _, _, clips = read_project(to_fcpxml(plan_unread(moments, query='a "b"\x00\n<c> & d')))
    assert [clip.path for clip in clips] == [moment.path for moment in moments]
    assert {clip.marker.attrib["value"] for clip in clips} == {'a "b"\ufffd\ufffd<c> & d'}


def test_each_video_and_format_is_stated_once(numbered: dict[str, Path]) -> None:
    moments = [make_moment(str(path), at, at + 1) for at in (0, 1, 2) for path in numbered.values()]
    root = ElementTree.fromstring(to_fcpxml(plan(moments)).encode())
    assert len(root.findall("resources/asset")) == len(numbered)
    assert len(root.findall("resources/format")) == len(numbered), "all rates differ, and one is the timeline's"
    sequence, rate, clips = read_project(to_fcpxml(plan_unread([], fps=None)))
    assert (sequence.attrib["duration"], rate, len(clips)) == ("0s", Fraction(25), 0), "without moments"
    root = ElementTree.fromstring(to_fcpxml(plan([make_moment("/films/gone.mp4"), *moments[:1]])).encode())
    assert [(form.get("width"), form.get("height")) for form in root.findall("resources/format")] == [("64", "48")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_opentimelineio_reads_the_project(numbered: dict[str, Path]) -> None:
    otio = pytest.importorskip("opentimelineio")
    moments = [make_spoken_moment(numbered["pal.mkv"], 0.2 + k, 1.2 + k) for k in range(5)]
    (read,) = otio.adapters.read_from_string(to_fcpxml(plan(moments, handles_s=0.2)), "fcpx_xml")
    assert read.name == "second coat"
    (track,) = read.tracks
    for index, clip in enumerate(track.find_clips()):
        assert clip.media_reference.target_url == numbered["pal.mkv"].as_uri()
        assert clip.source_range.start_time.value == pytest.approx(25 * index, abs=1), "its reader rounds down"
        assert clip.range_in_parent().start_time.value == pytest.approx(35 * index, abs=1)
        assert [marker.name for marker in clip.markers] == ["second coat"]
    assert index == 4
