"""Tests of the tracker on made-up boxes: a naive twin, crossings, gaps, cuts and the best crops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidret.channels.people.faces import Box, Face
from vidret.channels.people.reading import (
    MAX_GAP_S,
    FaceTrack,
    FaceTracker,
    Sighting,
    compare_boxes,
    rate_face,
)

FRONT = np.array([(40.0, 40.0), (80.0, 40.0), (60.0, 60.0), (45.0, 80.0), (75.0, 80.0)])
CHIP = np.zeros((4, 4, 3), np.uint8)


def see(time_s: float, box: Box, quality: float = 1.0, vector: float = 0.0) -> Sighting:
    return Sighting(time_s, Face(box, FRONT, 1.0), CHIP, quality, np.array((vector,), np.float32))


def place(x: float, y: float = 0.0, side: float = 40.0) -> Box:
    return (x, y, x + side, y + side)


def follow(*frames: tuple[float, list[Box]], cuts_s: tuple[float, ...] = ()) -> list[list[tuple[float, Box]]]:
    """Return the boxes of the tracks through frames, in the order in which they begin."""
    tracker, tracks = FaceTracker(0.6), list[FaceTrack]()
    for time_s, boxes in frames:
        tracks += tracker.add(time_s, [see(time_s, box) for box in boxes], starts_shot=time_s in cuts_s)
    return sorted(track.boxes for track in (*tracks, *tracker.finish()))


def test_faces_that_cross_are_two_tracks_throughout() -> None:
    frames = [(float(step), [place(10.0 * step), place(80.0 - 10 * step, 25.0)]) for step in range(9)]
    upper, lower = follow(*frames)
    assert [box[1] for _, box in upper] == [0.0] * 9
    assert [box[1] for _, box in lower] == [25.0] * 9


@pytest.mark.parametrize(
    ("second", "time_s", "num_tracks"),
    [
        (place(15), 1.0, 1),
        (place(100), 1.0, 2),
        (place(-80, -80, 200), 1.0, 2),  # five times as large
        (place(0), MAX_GAP_S, 1),
        (place(0), MAX_GAP_S + 0.01, 2),
    ],
)
def test_a_face_far_away_or_much_later_is_another(second: Box, time_s: float, num_tracks: int) -> None:
    assert len(follow((0.0, [place(0)]), (time_s, [second]))) == num_tracks
    assert len(follow((0.0, [place(0)]), (time_s / 2, []), (time_s, [second]))) == num_tracks


def test_a_cut_ends_all_tracks() -> None:
    frames = [(0.0, [place(0), place(90)]), (1.0, [place(0), place(90)]), (2.0, [place(0), place(90)])]
    assert [len(track) for track in follow(*frames, cuts_s=(1.0,))] == [1, 1, 2, 2]


def test_a_face_that_looks_different_is_another_although_in_the_same_place() -> None:
    tracker = FaceTracker(0.6)
    for time_s, vector in ((0.0, 0.0), (1.0, 0.5), (2.0, 1.2)):
        tracker.add(time_s, [see(time_s, place(0), vector=vector)], starts_shot=False)
    assert sorted(len(track.boxes) for track in tracker.finish()) == [1, 2]
    tracker.add(0.0, [see(0.0, place(0), vector=9.0)], starts_shot=False)
    tracker.add(1.0, [Sighting(1.0, Face(place(0), FRONT, 1.0))], starts_shot=False)  # too small to be described
    tracker.add(2.0, [see(2.0, place(0), vector=9.1)], starts_shot=False)
    assert [len(track.boxes) for track in tracker.finish()] == [3]


BOXES = st.lists(st.builds(place, st.integers(0, 12).map(lambda x: x * 9.7), st.just(0.0), st.just(40.0)), max_size=4)


def link_slowly(frames: list[list[Box]]) -> list[list[tuple[float, Box]]]:
    """Link the closest pair of a track and a box again and again, frame by frame, one a second."""
    tracks: list[list[tuple[float, Box]]] = []
    for number, boxes in enumerate(frames):
        alive = [track for track in tracks if track[-1][0] == number - 1]
        waiting = list(range(len(boxes)))
        while True:
            pairs = [(compare_boxes(track[-1][1], boxes[row]), track, row) for track in alive for row in waiting]
            best = max((pair[0] for pair in pairs), default=0.0)
            if best <= 0:
                break
            _, track, row = next(pair for pair in pairs if pair[0] == best)
            track.append((float(number), boxes[row]))
            alive.remove(track)
            waiting.remove(row)
        tracks += [[(float(number), boxes[row])] for row in waiting]
    return sorted(tracks)


@given(frames=st.lists(BOXES.filter(lambda boxes: len(set(boxes)) == len(boxes)), max_size=5))
def test_tracks_are_those_of_the_closest_pairs(frames: list[list[Box]]) -> None:
    shifted = [
        [place(box[0] + 0.37 * row + 0.011 * number) for row, box in enumerate(boxes)]
        for number, boxes in enumerate(frames)
    ]
    found = follow(*[(float(number), boxes) for number, boxes in enumerate(shifted)])
    assert found == link_slowly(shifted)


def test_boxes_are_compared_by_their_overlap() -> None:
    assert compare_boxes(place(0), place(0)) == 1.0
    assert compare_boxes(place(0), place(20)) == pytest.approx(1 / 3)
    assert compare_boxes(place(0), place(25)) == 0.0
    assert compare_boxes(place(0), place(0, 0, 22)) == pytest.approx(22**2 / 1600)  # near, and of a similar size


def test_the_best_crop_is_kept() -> None:
    track = FaceTrack()
    for time_s, quality in ((0.0, 2.0), (1.0, 5.0), (2.0, 3.0)):
        track.add(see(time_s, place(0), quality, vector=time_s))
    track.add(Sighting(3.0, Face(place(0), FRONT, 1.01)))
    assert track.score == 1.0, "of a face that is described: a drawn one may be sure in profile"
    assert track.best is not None
    assert track.best.time_s == 1.0
    np.testing.assert_array_equal(track.vector, [2.0])


def test_large_sharp_frontal_faces_are_better() -> None:
    sharp = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    good = rate_face(Face(place(0), FRONT, 1.0), sharp, 0.0)
    assert good == pytest.approx(40.0)
    assert rate_face(Face(place(0), FRONT, 1.0), sharp, 0.5) == pytest.approx(good * 0.75)
    assert rate_face(Face(place(0, 0, 20), FRONT, 1.0), sharp, 0.0) == pytest.approx(good / 2)
    assert rate_face(Face(place(0), FRONT, 0.5), sharp, 0.0) == pytest.approx(good / 2)
    assert rate_face(Face(place(0), FRONT, 1.0), np.zeros_like(sharp), 0.0) == 0
