"""Tests of vidret/present/editors/timecode.py, against a clock that counts every label."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.present.moments import assert_refused
from vidret.present.editors.timecode import (
    DROP_FRAME_RATES,
    EDITING_RATES,
    choose_editing_rate,
    count_day,
    format_timecode,
    nearest_frame,
    parse_rate,
    parse_timecode,
    snap_rate,
)

MODES = [(rate, False) for rate in EDITING_RATES] + [(rate, True) for rate in DROP_FRAME_RATES]


def count_labels(rate: Fraction, *, drop_frame: bool) -> Iterator[tuple[int, int, int, int]]:
    """Yield the labels of a day one by one, as a clock shows them: drop-frame skips some at the start of minutes."""
    skipped = {30: (0, 1), 60: (0, 1, 2, 3)}[round(rate)] if drop_frame else ()
    for label in itertools.product(range(24), range(60), range(60), range(round(rate))):
        if not (label[1] % 10 and label[2] == 0 and label[3] in skipped):
            yield label


@pytest.mark.parametrize(("rate", "drop_frame"), [MODES[0], MODES[-2]])
def test_timecodes_equal_counted_ones(rate: Fraction, drop_frame: bool) -> None:
    near_minutes = {-2, -1, 0, 1, 2, 3, 4, 5}
    separator, num_frames = ";" if drop_frame else ":", 0
    for frame, label in enumerate(count_labels(rate, drop_frame=drop_frame)):
        num_frames += 1
        if frame % 9973 and not (frame < 40_000 and (label[2] == 0 or label[2] == 59) and frame % 7 in near_minutes):
            continue
        hours, minutes, seconds, frames = label
        code = f"{hours:02}:{minutes:02}:{seconds:02}{separator}{frames:02}"
        assert format_timecode(frame, rate, drop_frame=drop_frame) == code
        assert parse_timecode(code, rate) == (frame, drop_frame)
    assert count_day(rate, drop_frame=drop_frame) == num_frames
    assert_refused(lambda: format_timecode(num_frames, rate, drop_frame=drop_frame), "must be below 24 hours")


@given(st.sampled_from(MODES), st.integers(0, 24 * 3600 * 60))
def test_timecodes_round_trip_and_equal_those_of_opentimelineio(mode: tuple[Fraction, bool], frame: int) -> None:
    opentime = pytest.importorskip("opentimelineio").opentime
    rate, drop_frame = mode
    frame %= count_day(rate, drop_frame=drop_frame)
    code = format_timecode(frame, rate, drop_frame=drop_frame)
    assert parse_timecode(code, rate) == (frame, drop_frame)
    if frame >= 23 * 3600 * rate:  # it starts again after a day by the clock, which is before the last label of 29.97
        return
    time = opentime.RationalTime(frame, float(rate))
    assert opentime.to_timecode(time, float(rate), drop_frame) == code
    assert opentime.from_timecode(code, float(rate)).value == frame


def test_what_is_no_timecode_is_refused() -> None:
    ntsc = ("", "1:00:00:00", "24:00:00:00", "00:60:00:00", "00:00:60:00", "00:00:00:30", "00:01:00;00", "00:09:00;01")
    whole = ((Fraction(rate), "00:10:00;00") for rate in (25, 30, "24000/1001"))  # no rate for drop-frame timecode
    for rate, text in (*((Fraction(30000, 1001), text) for text in ntsc), *whole):
        assert_refused(partial(parse_timecode, text, rate), "fps must be one of its labels, got")
    assert parse_timecode("00:10:00;00", Fraction(60000, 1001))[1]


def test_a_boundary_on_a_frame_start_is_that_frame() -> None:
    for rate in (*EDITING_RATES, Fraction(25, 2)):
        for frame in range(0, 10**6, 997):
            assert nearest_frame(float(frame / rate), rate) == frame


def test_rates_are_exact_or_refused() -> None:
    ntsc = {23.976: "24000/1001", 24000 / 1001: "24000/1001", 29.97: "30000/1001", 59.94: "60000/1001"}
    for fps, exact in ({1: 1, 24: 24, 100: 100} | ntsc).items():
        assert parse_rate(fps) == snap_rate(fps) == Fraction(exact)
    for fps, exact in {12.5: "25/2", 7.5: "15/2", 14.985: "15000/1001", 0.5: "1/2"}.items():
        assert snap_rate(fps) == Fraction(exact), "odd rates are kept"
    for fps in (0, -25, 12.5, 29.9, 120, float("nan"), float("inf")):
        assert_refused(partial(parse_rate, fps), f"or 1000/1001 of one, got {fps:g}")


def test_a_timeline_shows_frames_equally_long_or_has_the_nearest_rate() -> None:
    for text in ("15", "15000/1001", "25/2", "12", "10", "120", "120000/1001", "100", "240", "5"):
        rate, chosen = Fraction(text), choose_editing_rate(Fraction(text))
        assert chosen in EDITING_RATES
        assert 1 in ((chosen / rate).denominator, (rate / chosen).denominator)
    for uneven, nearest in ((17, "24000/1001"), (29, "30000/1001"), (71, "60")):
        assert choose_editing_rate(Fraction(uneven)) == Fraction(nearest)
