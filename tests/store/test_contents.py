"""The shots between changes of shot."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidret.errors import StoreError
from vidret.store.lookup import list_shots, read_shots
from vidret.types import Shot, ShotChange

from .samples import add_segment, add_video, create, embedding

CUT, DISSOLVE, FADE_IN = ShotChange(4.0, 4.0, "cut"), ShotChange(6.0, 7.5, "dissolve"), ShotChange(0.0, 1.0, "fade")
TIMES = st.integers(0, 30).map(float)


@pytest.mark.parametrize(
    ("changes", "shots"),
    [
        ([], [(0.0, 10.0, None)]),
        ([CUT, DISSOLVE], [(0.0, 4.0, None), (4.0, 6.0, "cut"), (7.5, 10.0, "dissolve")]),
        ([FADE_IN, CUT], [(1.0, 4.0, "fade"), (4.0, 10.0, "cut")]),
        ([ShotChange(3.0, 6.0, "dissolve"), CUT], [(0.0, 3.0, None), (6.0, 10.0, "dissolve")]),
        ([ShotChange(8.0, 10.0, "fade")], [(0.0, 8.0, None)]),
        ([ShotChange(12.0, 12.0, "cut")], [(0.0, 10.0, None)]),
    ],
    ids=["none", "cut and dissolve", "fade in", "cut within a dissolve", "fade out", "after the end"],
)
def test_shots_lie_between_changes(changes: list[ShotChange], shots: list[tuple[float, float, str | None]]) -> None:
    assert [(shot.start, shot.end, shot.begins_with) for shot in list_shots(changes, 0.0, 10.0)] == shots


@given(st.lists(st.tuples(TIMES, TIMES), max_size=6), TIMES, st.integers(1, 10))
def test_shots_are_the_times_outside_changes(spans: list[tuple[float, float]], start: float, length_s: int) -> None:
    ordered = sorted((min(span), max(span)) for span in spans)
    changes = [ShotChange(first, last, "cut" if first == last else "dissolve") for first, last in ordered]
    shots = list_shots(changes, start, start + length_s)
    for half in range(2 * length_s):  # the middle of each half second, which no change begins or ends in
        time = start + half / 2 + 0.25
        is_outside = not any(change.start <= time <= change.end for change in changes)
        assert sum(shot.start <= time <= shot.end for shot in shots) == is_outside
    assert all(shot.start < shot.end for shot in shots)
    gradual = [change for change in changes if change.kind == "dissolve"]
    cuts = {change.start for change in changes if change.kind == "cut" and start < change.start < start + length_s}
    cuts = {cut for cut in cuts if not any(change.start <= cut <= change.end for change in gradual)}
    assert {(cut, "cut") for cut in cuts} <= {(shot.start, shot.begins_with) for shot in shots}


def test_shots_of_a_video_end_where_it_is_stored_so_far(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        video = store.writer.begin_video("v1", duration=40.0, facts={}, num_segments=None)
        assert read_shots(store, video) == []
        add_segment(store, video, 0, 0.0, 10.0, embedding(0), shots=[CUT])
        assert read_shots(store, video) == [Shot(0.0, 4.0, None), Shot(4.0, 10.0, "cut")]
        other = add_video(store, "v2", seed=2)
        assert read_shots(store, other) == [], "indexed without shots, as far as the store knows"
        with pytest.raises(StoreError, match="video must be one of this index, got 9"):
            read_shots(store, 9)
