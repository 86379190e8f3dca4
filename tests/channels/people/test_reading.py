"""Tests of the reader of faces: sure and unsure faces, small ones, and shots that are known late."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_faces import PEOPLE, TEMPLATE, ColouredFaces
from tests.noting import note_calls
from vidret.channels.people.faces import Box, Face, measure_misfit
from vidret.channels.people.reading import (
    MAX_GAP_S,
    MAX_MISFIT,
    MIN_SCORE,
    SEEN_SCORE,
    FaceReader,
    FaceTrack,
    FaceTracker,
    Sighting,
    compare_boxes,
    rate_face,
)
from vidret.store.identities.tracks import Track, check_track, pack_track, unpack_track
from vidret.types import Picture, ShotChange

IMAGE = np.full((120, 160, 3), 90, np.uint8)


class ScriptedFaces(ColouredFaces):
    """Finds a face of a given score and side in each frame; a frame is a grey of 20 times its number."""

    turned = np.zeros((5, 2))

    def __init__(self, *faces: tuple[float, float]) -> None:
        self._faces = faces

    def find(self, image: Picture, *, min_size: float) -> list[Face]:
        score, side = self._faces[int(image[0, 0, 0]) // 20]
        return [Face((20.0, 20.0, 20 + side, 20 + side), TEMPLATE * side / 40 + 20 + self.turned, score)]


def read(*faces: tuple[float, float], shots: tuple[ShotChange, ...] = (), segment_s: float = 100.0) -> list[Track]:
    """Return the tracks of frames a second apart, of which a segment is over once one behind its end was read."""
    reader, tracks = FaceReader(ScriptedFaces(*faces)), list[Track]()
    for frame_index in range(len(faces)):
        reader.read(np.full_like(IMAGE, 20 * frame_index), frame_index + 0.5)
        if frame_index + 0.5 > segment_s:
            known = [shot for shot in shots if shot.start < segment_s]
            tracks += reader.take(segment_s, known)[1]
            shots = tuple(shot for shot in shots if shot not in known)
            segment_s = 100.0
    tracks += reader.take(100.0, shots)[1]
    return tracks + reader.finish(100.0)


def test_unsure_faces_belong_to_the_track_of_a_sure_one() -> None:
    (track,) = read((SEEN_SCORE, 48), (MIN_SCORE, 48), (SEEN_SCORE, 48))
    assert track.boxes is not None
    assert len(track.boxes) == 3
    assert read((MIN_SCORE - 0.01, 48), (SEEN_SCORE, 48)) == []
    (track,) = read((SEEN_SCORE - 0.01, 48), (1.0, 48))
    assert (track.start_s, track.end_s) == (1.0, 2.25)


def test_small_faces_and_profiles_are_followed_but_not_described(monkeypatch: pytest.MonkeyPatch) -> None:
    (track,) = read((1.0, 39), (1.0, 41), (1.0, 39))
    assert (track.start_s, track.end_s) == (0.0, 3.25)
    assert read((1.0, 39), (1.0, 39)) == []
    nose = np.array([(0, 0), (0, 0), (1, 0), (0, 0), (0, 0)])
    limit = 40 * MAX_MISFIT / measure_misfit(TEMPLATE + nose, TEMPLATE)
    for length, num_tracks in ((0.9, 1), (1.1, 0)):
        monkeypatch.setattr(ScriptedFaces, "turned", nose * length * limit)
        assert len(read((1.0, 40), (1.0, 40))) == num_tracks


def test_faces_at_the_edge_are_followed_but_not_described(monkeypatch: pytest.MonkeyPatch) -> None:
    for shift, num_tracks in ((-25.0, 1), (-35.0, 0)):
        monkeypatch.setattr(ScriptedFaces, "turned", np.array((shift, 0.0)))
        assert len(read((1.0, 40), (1.0, 40))) == num_tracks


def test_a_cut_between_segments_is_known_before_the_next_frame_is_placed() -> None:
    """The first frame of a segment is read before the segment that ends there is over, and the cut comes with it."""
    cut = ShotChange(2.0, 2.0, "cut")
    for segment_s in (2.0, 100.0):
        tracks = read(*[(1.0, 48.0)] * 4, shots=(cut,), segment_s=segment_s)
        assert [(track.start_s, track.end_s) for track in tracks] == [(0.0, 2.0), (2.0, 4.25)]
    assert len(read(*[(1.0, 48.0)] * 4, segment_s=2.0)) == 1


def test_tracks_last_half_way_to_the_frames_around_them() -> None:
    """So tracks that follow one another meet, and two in one frame share some time."""
    nothing = (0.0, 48.0)
    (track,) = read(nothing, nothing, (1.0, 48), nothing)
    assert (track.start_s, track.end_s) == (2.0, 3.0)
    (track,) = read((1.0, 48), nothing, shots=(ShotChange(0.25, 0.3, "fade"), ShotChange(0.75, 0.75, "cut")))
    assert (track.start_s, track.end_s) == (0.3, 0.75)
    reader = FaceReader(ColouredFaces())
    image = IMAGE.copy()
    image[40:90, 10:60], image[40:90, 100:150] = PEOPLE["ann"], PEOPLE["bob"]
    reader.read(image, 7.0)
    one, other = reader.finish(7.5)
    assert (one.start_s, one.end_s) == (other.start_s, other.end_s) == (6.25, 7.5)


def test_a_frame_like_one_without_faces_is_left_out_but_not_two(monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = ColouredFaces(), list[float]()

    def find(image: Picture, *, min_size: float) -> list[Face]:
        found.append(float(image[0, 0, 0]))
        return []

    monkeypatch.setattr(model, "find", find)
    reader = FaceReader(model)
    for value in (5, 6, 7, 8, 60, 61):
        reader.read(np.full_like(IMAGE, value), float(value))
    assert found == [5, 7, 60]
    assert reader.finish(99.0) == []


def test_faces_are_looked_for_once_a_second_and_where_the_picture_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = note_calls(monkeypatch, ScriptedFaces, "find", lambda _, image, **__: int(image[0, 0, 0]))
    reader = FaceReader(ScriptedFaces(*[(1.0, 48.0)] * 3))
    for time_s, value in ((0.0, 0), (0.4, 1), (0.8, 2), (1.2, 3), (1.3, 20), (1.6, 21), (2.4, 22)):
        reader.read(np.full_like(IMAGE, value), time_s)
    assert found == [0, 2, 20, 22]
    (track,) = reader.finish(9.0)
    assert track.boxes is not None
    np.testing.assert_allclose(track.boxes[:, 0], (0, 0.8, 1.3, 2.4))


def test_faces_in_one_place_are_told_apart_where_shots_are_not_known() -> None:
    for shots, num_tracks in ((None, 2), ((), 1)):
        reader = FaceReader(ColouredFaces())
        for frame_index, name in enumerate(("ann", "ann", "bob", "bob")):
            image = IMAGE.copy()
            image[40:90, 10:60] = PEOPLE[name]
            reader.read(image, float(frame_index))
        tracks = reader.take(9.0, shots)[1] + reader.finish(9.0)
        assert len(tracks) == num_tracks


def test_vectors_are_compared_at_unit_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of single frames; what was described is not described again."""
    colours, described = ColouredFaces.describe, list[int]()

    def describe(self: ColouredFaces, chips: np.ndarray) -> np.ndarray:
        described.append(len(chips))
        return colours(self, chips) * [1.0, 7.0, 0.2][len(described) % 3]

    monkeypatch.setattr(ColouredFaces, "describe", describe)
    for shots in (None, ()):
        described.clear()
        reader = FaceReader(ColouredFaces())
        for time_s in (0.0, 1.0, 2.0):
            image = IMAGE.copy()
            image[40:90, 10:60] = PEOPLE["ann"]
            reader.read(image, time_s)
        (track,) = reader.take(9.0, shots)[1] + reader.finish(9.0)
        np.testing.assert_allclose(track.vector, (1, 0, 0), atol=0.02)
        assert np.linalg.norm(track.vector) == pytest.approx(1)
        assert sum(described) == (3 if shots is None else 1)


def test_tracks_come_through_messages_as_they_are() -> None:
    (track,) = read((1.0, 48), (1.0, 48))
    check_track(track, "face")
    other = unpack_track(pack_track(track))
    assert (other.start_s, other.end_s, other.thumbnail) == (track.start_s, track.end_s, track.thumbnail)
    assert other.quality == pytest.approx(track.quality)
    np.testing.assert_array_equal(other.vector, track.vector)
    np.testing.assert_array_equal(other.boxes, track.boxes)


# Tracks of made-up boxes: a naive twin, crossings, gaps, cuts and the best crops.

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
    for frame_index, boxes in enumerate(frames):
        alive = [track for track in tracks if track[-1][0] == frame_index - 1]
        waiting = list(range(len(boxes)))
        while True:
            pairs = [(compare_boxes(track[-1][1], boxes[row]), track, row) for track in alive for row in waiting]
            best = max((pair[0] for pair in pairs), default=0.0)
            if best <= 0:
                break
            _, track, row = next(pair for pair in pairs if pair[0] == best)
            track.append((float(frame_index), boxes[row]))
            alive.remove(track)
            waiting.remove(row)
        tracks += [[(float(frame_index), boxes[row])] for row in waiting]
    return sorted(tracks)


@given(frames=st.lists(BOXES.filter(lambda boxes: len(set(boxes)) == len(boxes)), max_size=5))
def test_tracks_are_those_of_the_closest_pairs(frames: list[list[Box]]) -> None:
    shifted = [
        [place(box[0] + 0.37 * row + 0.011 * frame_index) for row, box in enumerate(boxes)]
        for frame_index, boxes in enumerate(frames)
    ]
    found = follow(*[(float(frame_index), boxes) for frame_index, boxes in enumerate(shifted)])
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
