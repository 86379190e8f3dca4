"""Merging indexes: the result equals one index of all videos; damaged, changed and interrupted sources."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import COLOURS, ColourEncoder, write_film
from tests.index.samples import read_index
from tests.store.samples import DIM, add_segment, add_video, create, damage, embedding, shots, tokens
from vidret.engine import Engine
from vidret.errors import StoreError
from vidret.index import copying
from vidret.index.merging import MergeReport, merge_indexes
from vidret.search.collections import list_collections
from vidret.store.records import (
    CALIBRATION,
    CONCEPT,
    FOLLOW_SHOTS,
    HEAD,
    PROBABILITIES,
    RANKER,
    SEGMENTS,
    UNCALIBRATED,
    FileRecord,
)
from vidret.store.rows_file import COLLECTIONS, WATCHES, Watch
from vidret.store.store import Store
from vidret.types import ListedMoment, SavedCollection, SearchOptions

FOLDER = Path("moments") / "head-1" / "kept"


def read_record(path: Path, name: str) -> FileRecord:
    with Store.open(path) as store:
        record = store.files.get(name)
    assert record is not None
    return record


def merge(out: Path, *sources: Path) -> MergeReport:
    return merge_indexes(sources, out)


def get_counts(report: MergeReport) -> tuple[int, ...]:
    return (report.copied, report.completed, report.known, report.num_segments, report.added, report.changed)


def write_index(path: Path, seeds: Sequence[int]) -> Path:
    with create(path) as store:
        for seed in seeds:
            add_video(store, f"v{seed}", seed=seed)
        store.upkeep.save_vectors()
    return path


def list_sizes(index: Path) -> list[int]:
    return [path.stat().st_size for path in sorted((index / "features").iterdir())]


def read_files(index: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in index.rglob("*") if path.is_file()}


def test_merged_index_equals_one_index_of_all_videos_and_a_repeated_merge_adds_nothing(tmp_path: Path) -> None:
    one, two, whole = (
        write_index(tmp_path / name, s) for name, s in (("1", [0, 1]), ("2", [1, 2, 3, 4]), ("all", range(5)))
    )
    before, seen = read_files(one), list[tuple[int, int]]()
    report = merge_indexes([one, two], tmp_path / "out", on_progress=lambda done, total: seen.append((done, total)))
    assert get_counts(report) == (5, 0, 1, 20, 5, 0)
    assert 0 <= report.elapsed < 600
    assert seen == sorted(seen)
    assert seen[-1] == (24 + 5, 24 + 5)
    assert read_files(one) == before, "sources are not changed"
    assert read_index(tmp_path / "out") == read_index(whole)
    queries = np.random.default_rng(0).standard_normal((6, DIM)).astype(np.float32)
    with Store.open(tmp_path / "out") as merged, Store.open(whole) as built:
        for actual, expected in zip(merged.search(queries, 7), built.search(queries, 7), strict=True):
            np.testing.assert_array_equal(actual, expected)
        assert merged.upkeep.verify() == []
        assert merged.info().vectors == "flat", "saved"
    sizes = list_sizes(tmp_path / "out")
    assert get_counts(merge(tmp_path / "out", one, two)) == (0, 0, 6, 0, 0, 0)
    assert read_index(tmp_path / "out") == read_index(whole)
    assert list_sizes(tmp_path / "out") == sizes


def write_part(path: Path, numbers: Sequence[int], *, num_segments: int | None = None, length_s: float = 10.0) -> Path:
    """Write an index with segments of a video that was not read to its end; without a planned number, of its shots."""
    with create(path) as store:
        if num_segments is None:
            store.metadata.set(SEGMENTS, FOLLOW_SHOTS)
        video = store.writer.begin_video("v1", duration=40.0, facts={"codec": "grey"}, num_segments=num_segments)
        store.writer.set_file("/videos/v1.mp4", state="running", video=video)
        for segment_index in numbers:
            content, start = 100 + segment_index, length_s * segment_index
            changes, packed = shots(content, start), tokens(content)
            add_segment(
                store, video, segment_index, start, start + length_s, embedding(content), tokens=packed, shots=changes
            )
    return path


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """Return an index with two of the four segments of its only video."""
    return write_part(tmp_path / "half", [0, 1], num_segments=4)


def test_incomplete_content_is_completed_from_any_source(tmp_path: Path, half: Path) -> None:
    whole = write_index(tmp_path / "whole", [1])
    assert get_counts(merge(half, whole)) == (0, 1, 0, 2, 0, 1)
    assert read_index(half) == read_index(whole)
    one = write_index(tmp_path / "1", [0, 1])
    expected = read_index(one)
    assert merge(tmp_path / "out", half, one).num_segments == 8
    assert read_index(tmp_path / "out") == expected


def test_content_that_is_complete_nowhere_is_copied_and_pending(tmp_path: Path, half: Path) -> None:
    assert get_counts(merge(tmp_path / "out", half)) == (1, 0, 0, 2, 1, 0)
    assert read_record(tmp_path / "out", "/videos/v1.mp4").state == "pending"
    with Store.open(tmp_path / "out") as store:
        assert store.videos.find_complete("v1") is None
        assert len(store) == 2, "searchable"
    assert get_counts(merge(tmp_path / "out", half)) == (0, 0, 0, 0, 0, 0)


def test_incomplete_content_with_other_segments_is_ignored(tmp_path: Path, half: Path) -> None:
    write_part(tmp_path / "other", [1], num_segments=2, length_s=20.0)
    before = read_index(half)[0]
    assert get_counts(merge(half, tmp_path / "other")) == (0, 0, 1, 0, 0, 1)
    assert read_index(half)[0] == before
    with create(write_part(tmp_path / "other", [0], num_segments=2, length_s=20.0)) as store:
        store.writer.finish_video(1)
    merge(half, tmp_path / "other")
    assert read_index(half)[0] == read_index(tmp_path / "other")[0], "a complete one replaces it"


def test_open_ended_contents_complete_each_other_only_if_cut_alike(tmp_path: Path) -> None:
    short, long = write_part(tmp_path / "short", [0]), write_part(tmp_path / "long", [0, 1, 2])
    other = write_part(tmp_path / "other", [0, 1, 2, 3], length_s=20.0)
    assert merge(tmp_path / "out", short, long).num_segments == 3
    assert read_index(tmp_path / "out")[0] == read_index(long)[0]
    for _ in range(2):
        assert get_counts(merge(tmp_path / "out", long, other)) == (0, 0, 1, 0, 0, 0)
    assert read_index(tmp_path / "out")[0] == read_index(long)[0]
    with Store.open(tmp_path / "out") as store:
        assert store.metadata.get(SEGMENTS) == FOLLOW_SHOTS
        assert store.segments.resume_point(1) == (3, 30.0)


def test_open_ended_content_is_replaced_by_a_complete_one(tmp_path: Path, half: Path) -> None:
    out = write_part(tmp_path / "out", [0, 1, 2])
    before = read_index(out)[0]
    assert get_counts(merge(out, half)) == (0, 0, 1, 0, 0, 1)
    assert read_index(out)[0] == before, "a planned and an open-ended part do not mix"
    whole = write_index(tmp_path / "whole", [1])
    merge(out, whole)
    assert read_index(out) == read_index(whole)
    with Store.open(out) as store:
        assert store.metadata.get(SEGMENTS) == FOLLOW_SHOTS, "its own rule stays"


def test_segment_with_damaged_shots_is_not_copied(tmp_path: Path) -> None:
    one = write_index(tmp_path / "1", [1])
    with create(one) as store:
        bad = store.segments.ids_of_video(1)[1]
        store._catalog.database.run("UPDATE shots SET changes = '[]' WHERE segment = ?", bad)
    report = merge(tmp_path / "out", one)
    assert [path for path, _ in report.damaged] == ["/videos/v1.mp4"]
    assert f"the shot changes of segment {bad}" in report.damaged[0][1]
    with Store.open(tmp_path / "out") as store:
        assert store.segments.stored_indices(1) == {0, 2, 3}
        assert store.videos.find_complete("v1") is None


def test_states_and_reasons_are_merged(tmp_path: Path) -> None:
    one = write_index(tmp_path / "1", [0, 1])
    with create(one) as store:
        store.writer.set_file("/videos/bad.mp4", state="failed", reason="no video", num_bytes=3, mtime_ns=4)
        store.writer.set_file("/videos/new.mp4", state="pending")
        store.writer.set_file("/videos/v1.mp4", state="missing", reason="the file is gone")
        video = store.writer.begin_video("v9", duration=20.0, facts={}, num_segments=2)
        add_segment(store, video, 0, 0.0, 10.0, embedding(9))
        store.writer.finish_video(video, salvaged="the file ends early")
        store.writer.set_file("/videos/cut.mp4", state="done", video=video)
    expected = read_index(one)
    merge(tmp_path / "out", one)
    assert read_index(tmp_path / "out") == expected
    with Store.open(tmp_path / "out") as store:
        assert len(store) == 5, "missing files are not searched"


@pytest.mark.parametrize(
    ("own_state", "other_state", "state", "disagreed"),
    [
        ("done", "failed", "done", True),  # another index could read more of the same file
        ("done", "missing", "done", False),
        ("missing", "done", "done", False),
        ("pending", "failed", "failed", False),
        ("failed", "done", "done", True),
    ],
)
def test_index_that_got_further_with_a_file_is_believed(
    tmp_path: Path, own_state: str, other_state: str, state: str, *, disagreed: bool
) -> None:
    for name, file_state in (("out", own_state), ("1", other_state)):
        with create(tmp_path / name) as store:
            if file_state in ("done", "missing"):
                add_video(store, "v5", seed=5)
            facts = {"num_bytes": 5, "mtime_ns": 5} if file_state != "pending" else {}
            store.writer.set_file("/videos/v5.mp4", state=file_state, reason=f"is {file_state}", **facts)  # type: ignore[arg-type]
    report = merge(tmp_path / "out", tmp_path / "1")
    record = read_record(tmp_path / "out", "/videos/v5.mp4")
    assert (record.state, record.reason) == (state, f"is {state}")
    assert [path for path, _ in report.disagreed] == (["/videos/v5.mp4"] if disagreed else [])


@pytest.mark.parametrize("newer", ["out", "1"])
def test_later_content_of_a_changed_file_is_believed_and_reported(tmp_path: Path, newer: str) -> None:
    for name in ("out", "1"):
        with create(tmp_path / name) as store:
            seed = 7 if name == newer else 3
            add_video(store, f"v{seed}", seed=seed, path="/videos/a.mp4")
    report = merge(tmp_path / "out", tmp_path / "1")
    older = ({"out", "1"} - {newer}).pop()
    assert [path for path, _ in report.disagreed] == ["/videos/a.mp4"]
    assert f"{tmp_path / newer} is believed, not {tmp_path / older}: its file changed later" in report.disagreed[0][1]
    assert report.num_segments == (4 if newer == "1" else 0), "contents without a path are not copied"
    with Store.open(tmp_path / "out") as store:
        fingerprints = [store.videos.get(video.id).fingerprint for video in store.videos.find()]
    assert fingerprints == ["v7"]
    assert read_record(tmp_path / "out", "/videos/a.mp4").mtime_ns == 7


def test_damaged_segments_are_left_out_and_pending(tmp_path: Path) -> None:
    one = write_index(tmp_path / "1", [0, 1, 2])
    damage(one / "features" / "video.f16", 5 * DIM * 2)  # the second segment of the second video
    report = merge(tmp_path / "out", one)
    assert get_counts(report)[:4] == (3, 0, 0, 11)
    assert [path for path, _ in report.damaged] == ["/videos/v1.mp4"]
    assert "row 5 is damaged" in report.damaged[0][1]
    assert read_record(tmp_path / "out", "/videos/v1.mp4").state == "pending"
    with Store.open(tmp_path / "out") as store:
        assert store.videos.find_complete("v1") is None
        assert store.upkeep.verify() == []
    assert merge(tmp_path / "out", one).damaged == report.damaged, "reported each time"
    assert get_counts(merge(tmp_path / "out", write_index(tmp_path / "2", [1]))) == (0, 1, 0, 1, 0, 1)
    assert read_record(tmp_path / "out", "/videos/v1.mp4").state == "done"


def test_interrupted_merge_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "BATCH", 6)
    one, two, whole = (write_index(tmp_path / name, s) for name, s in (("1", [0, 1, 2]), ("2", [3]), ("all", range(4))))
    num_interrupted = 0
    for stop in range(12):
        calls = 0

        def interrupt(_done: int, _total: int, stop: int = stop) -> None:
            nonlocal calls
            calls += 1
            if calls > stop:
                raise KeyboardInterrupt

        num_interrupted += merge_indexes([one, two], tmp_path / "out", on_progress=interrupt).interrupted
    assert 0 < num_interrupted < 12
    assert read_index(tmp_path / "out") == read_index(whole)
    assert list_sizes(tmp_path / "out") == list_sizes(whole)


def prepare(path: Path, ranker: str | None, head: str | None = None) -> Path:
    with create(path) as store:
        if ranker is not None:
            facts = {"name": ranker, "fingerprint": f"{ranker}-print", "tokens": "int8"}
            store.metadata.set(RANKER, json.dumps(facts))
        if head is not None:
            store.metadata.set(HEAD, head)
    return path


def test_incompatible_indexes_are_rejected_before_anything_is_written(tmp_path: Path) -> None:
    one = write_index(prepare(tmp_path / "1", "ucofia"), [0])
    other = write_index(prepare(tmp_path / "2", "glscl"), [1])
    with create(tmp_path / "3", fingerprint="tower-2"):
        pass
    plain = write_index(tmp_path / "4", [2])
    for source, rule in (
        (other, r"2: prepared for glscl \(glscl-pr, tokens int8\), cannot be merged with .*1, prepared for ucofia"),
        (tmp_path / "3", r"3: built with tower \(tower-2\), cannot be merged with .*1, built with tower \(tower-1\)"),
        (plain, r"4: prepared for nothing .*, cannot be merged with .*1, prepared for ucofia"),
    ):
        with pytest.raises(StoreError, match=rule):
            merge(tmp_path / "out", one, source)
    assert not (tmp_path / "out").exists()
    with pytest.raises(StoreError, match=r"out must not be one of the indexes"):
        merge(one, other, tmp_path / "2" / ".." / "1")
    with pytest.raises(StoreError, match="there is no index here"):
        merge(tmp_path / "out", tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"1: prepared for ucofia .*, cannot be merged with .*4, prepared for nothing"):
        merge(plain, one)
    assert [record.path for record in Store.open(plain).files.find()] == ["/videos/v2.mp4"]


def test_aligner_and_head_are_merged_and_differences_noted(tmp_path: Path) -> None:
    empty = prepare(tmp_path / "empty", None)
    one = prepare(tmp_path / "1", "ucofia", "/heads/a.safetensors")
    two = prepare(tmp_path / "2", "ucofia", "/heads/b.safetensors")
    with create(two) as store:
        store.metadata.set(f"{CALIBRATION}.ucofia", b"numbers")
        store.metadata.set(f"{CALIBRATION}.none", "")
    with create(one) as store:
        store.metadata.set(PROBABILITIES, "weights")
    with create(empty) as store:  # its calibration is made again by the next run
        store.metadata.set(f"{CALIBRATION}.none", json.dumps({"is_automatic": True}))
    report = merge(tmp_path / "out", empty, one, two)
    with Store.open(tmp_path / "out") as store:
        assert json.loads(str(store.metadata.get(RANKER)))["name"] == "ucofia"
        assert store.metadata.get(HEAD) == "/heads/a.safetensors"
        assert store.metadata.get(f"{CALIBRATION}.ucofia") is None
        assert store.metadata.get(PROBABILITIES) is None
    assert report.notes == [
        f"{empty}: its grounding head none is /heads/a.safetensors in the merged index",
        f"{two}: its grounding head /heads/b.safetensors is /heads/a.safetensors in the merged index",
        f"{one}: its calibration is not copied: run vidret calibrate again",
        f"{two}: its calibration is not copied: run vidret calibrate again",
    ]
    assert len(merge(two, empty).notes) == 1
    with Store.open(two) as store:  # searches correct the new segments too
        assert store.metadata.get(f"{CALIBRATION}.ucofia") == b"numbers"


def test_a_new_index_calibrates_by_itself_as_the_first_that_is_merged(tmp_path: Path) -> None:
    one, two = write_index(tmp_path / "1", [0]), write_index(tmp_path / "2", [1])
    with Store.open(one, write=True) as store:
        store.metadata.set(UNCALIBRATED, "yes")
    merge(tmp_path / "out", one, two)
    merge(two, one)
    for path, expected in ((tmp_path / "out", "yes"), (two, None)):
        with Store.open(path) as store:
            assert store.metadata.get(UNCALIBRATED) == expected


def test_concepts_are_copied_and_names_that_are_taken_noted(tmp_path: Path) -> None:
    taught = {"1": {"fox": b"red", "sun": b"yellow", "old": b""}, "2": {"fox": b"grey", "sun": b"yellow", "old": b"x"}}
    for name, concepts in taught.items():
        write_index(tmp_path / name, [int(name)])
        with Store.open(tmp_path / name, write=True) as store:
            for concept, content in concepts.items():
                store.metadata.set(f"{CONCEPT}.{concept}", content)
    report = merge(tmp_path / "out", tmp_path / "1", tmp_path / "2")
    taken = f"{tmp_path / '2'}: its concept @fox is not copied: {tmp_path / '1'} has another of that name"
    assert (report.concepts, report.notes) == (3, [taken])
    with Store.open(tmp_path / "out") as merged:
        assert [merged.metadata.get(f"{CONCEPT}.{name}") for name in ("fox", "sun", "old")] == [b"red", b"yellow", b"x"]
    again = merge(tmp_path / "out", tmp_path / "2")
    assert (again.concepts, again.notes) == (0, [taken.replace(str(tmp_path / "1"), str(tmp_path / "out"))])


def test_watches_are_copied_and_still_report_what_they_have_not_seen(tmp_path: Path) -> None:
    one, two = write_index(tmp_path / "1", [0]), write_index(tmp_path / "2", [1, 2])
    WATCHES.write(one, [Watch(name="reds", query="red", last_video=1)])
    WATCHES.write(
        two, [Watch(name="reds", query="rose", last_video=2), Watch(name="blues", query="blue", last_video=1)]
    )
    report = merge(tmp_path / "out", one, two)
    taken = f"{two}: its watch reds is not copied: {one} has another of that name"
    assert (report.watches, report.notes) == (2, [taken])
    with Store.open(tmp_path / "out") as merged:
        ids = {content: video_id for video_id, content in merged.videos.fingerprints().items()}
    assert WATCHES.read(tmp_path / "out") == [
        Watch(name="reds", query="red", last_video=max(ids.values())),
        Watch(name="blues", query="blue", last_video=max(ids.values()), unreported=(ids["v2"],)),
    ]


def test_collections_are_copied_and_find_their_videos_by_content(tmp_path: Path) -> None:
    one, two = write_index(tmp_path / "1", [0]), write_index(tmp_path / "2", [1, 2])
    best = SavedCollection(
        name="best", moments=(ListedMoment(content="v2", path="/old.mp4", start=1, end=2, note="n"),)
    )
    saved = SavedCollection.of_search("reds", "red", SearchOptions(k=3))
    COLLECTIONS.write(one, [saved])
    COLLECTIONS.write(two, [best, replace(saved, query="rose"), replace(saved, name="more")])
    report = merge(tmp_path / "out", one, two)
    taken = f"{two}: its collection reds is not copied: {one} has another of that name"
    assert (report.collections, report.notes) == (3, [taken])
    with Store.open(tmp_path / "out") as merged:
        kept = {saved.name: saved for saved in list_collections(merged, tmp_path / "out")}
        (moment,) = kept["best"].moments
        assert merged.videos.get(moment.video or 0).fingerprint == "v2"
    assert (moment.note, kept["reds"], set(kept)) == ("n", saved, {"best", "reds", "more"})
    assert merge(tmp_path / "out", two).collections == 0


def test_kept_projected_tokens_are_copied_with_their_contents(tmp_path: Path) -> None:
    one, two = write_index(tmp_path / "1", [0, 1]), write_index(tmp_path / "2", [1])
    for index, name in ((one, "v0"), (one, "v1"), (two, "v1"), (two, "v8")):
        (index / FOLDER).mkdir(parents=True, exist_ok=True)
        (index / FOLDER / f"{name}.zip").write_text(f"{name} in {index.name}")
    report = merge(tmp_path / "out", one, two)
    kept = {path.name: path.read_text() for path in (tmp_path / "out" / FOLDER).iterdir()}
    assert kept == {"v0.zip": "v0 in 1", "v1.zip": "v1 in 1"}
    assert report.moments == 2
    assert merge(tmp_path / "out", one, two).moments == 0


def test_projected_tokens_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    one = write_index(tmp_path / "1", [0])
    (one / FOLDER / "v0.zip").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"1/moments/head-1/kept/v0\.zip: cannot be read \(Is a directory\)"):
        merge(tmp_path / "out", one)


def test_search_of_a_merged_index_equals_that_of_one_index(tmp_path: Path) -> None:
    films = tmp_path / "films"
    for film_index, colour in enumerate(COLOURS):
        other = list(COLOURS)[film_index - 1]
        write_film(films / str(film_index % 2) / f"{colour}.mp4", (colour, 4 + film_index), (other, 2))
    (films / "1" / "bad.mp4").write_text("no video")
    for name, folder in (("even", films / "0"), ("odd", films / "1"), ("all", films)):
        Engine(tmp_path / name, ColourEncoder()).index([folder])
    merge(tmp_path / "out", tmp_path / "even", tmp_path / "odd")
    merged, built = (Engine(tmp_path / name, ColourEncoder()) for name in ("out", "all"))
    approx = partial(pytest.approx, rel=1e-6, abs=1e-6)  # a product of float32 rounds a row by where it stands
    for query in (*COLOURS, "red -blue", "something else"):
        merged_hits, expected_hits = merged.search(query), built.search(query)
        assert [(h.path, h.time, h.weak) for h in merged_hits] == [(h.path, h.time, h.weak) for h in expected_hits]
        scores = [hit.score for hit in expected_hits]
        assert [hit.score for hit in merged_hits] == approx(scores), "scored in other blocks"
        merged_moments, moments = (engine.locate(query, 9, weak=True) for engine in (merged, built))
        assert [(m.path, m.start, m.end) for m in merged_moments] == [(m.path, m.start, m.end) for m in moments]
        assert [m.score for m in merged_moments] == approx([m.score for m in moments])
    assert merged.failed() == built.failed()
    again = merged.index([films])
    assert (again.encoded, again.unchanged, len(again.failed)) == (0, 6, 1), "nothing is encoded again"
