"""Merging indexes: what was built apart is what it would have been in one, whatever is damaged, old or interrupted."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.colours import COLOURS, ColourEncoder, write_film
from tests.store.samples import DIM, add_video, create, damage, embedding, tokens
from vidret.engine import Engine
from vidret.errors import StoreError
from vidret.index.merging import MergeReport, copying, merge_indexes
from vidret.store.records import CALIBRATION, HEAD, RANKER, FileRecord
from vidret.store.store import Store

FOLDER = Path("moments") / "head-1" / "kept"


def read_index(path: Path) -> tuple[dict[str, object], dict[str, object]]:
    """Read what an index says of contents and of paths, however it numbers them."""
    with Store.open(path) as store:
        names = store.fingerprints()
        contents: dict[str, object] = {}
        for number, name in names.items():
            ids = store.video_segments(number)
            segments = zip(store.segments(ids), store.vectors(ids), store.frames(ids), store.tokens(ids), strict=True)
            rows = [
                (each.number, each.start, each.end, vector.tobytes(), frames.tobytes(), times.tobytes(), bytes(packed))
                for each, vector, (frames, times), packed in segments
            ]
            contents[name] = (replace(store.video(number), id=0), rows)
        paths: dict[str, object] = {
            record.path: (replace(record, video=None), None if record.video is None else names[record.video])
            for record in store.files()
        }
    return contents, paths


def file(path: Path, name: str) -> FileRecord:
    with Store.open(path) as store:
        record = store.file(name)
    assert record is not None
    return record


def merge(out: Path, *sources: Path) -> MergeReport:
    return merge_indexes(sources, out)


def counts(report: MergeReport) -> tuple[int, ...]:
    return (report.copied, report.completed, report.known, report.num_segments, report.added, report.changed)


def build(path: Path, seeds: Sequence[int]) -> Path:
    with create(path) as store:
        for seed in seeds:
            add_video(store, f"v{seed}", seed=seed)
        store.save_vectors()
    return path


def test_what_was_built_apart_is_what_it_would_have_been_in_one(tmp_path: Path) -> None:
    one, two, whole = (build(tmp_path / name, s) for name, s in (("1", [0, 1]), ("2", [2, 3, 4]), ("all", range(5))))
    report = merge(tmp_path / "out", one, two)
    assert counts(report) == (5, 0, 0, 20, 5, 0)
    assert read_index(tmp_path / "out") == read_index(whole)
    queries = np.random.default_rng(0).standard_normal((6, DIM)).astype(np.float32)
    with Store.open(tmp_path / "out") as merged, Store.open(whole) as built:
        for mine, its in zip(merged.search(queries, 7), built.search(queries, 7), strict=True):
            np.testing.assert_array_equal(mine, its)
        assert merged.verify() == []
        assert merged.info().vectors == "flat", "saved"


def test_a_merge_that_is_done_again_adds_nothing(tmp_path: Path) -> None:
    one, two = build(tmp_path / "1", [0, 1]), build(tmp_path / "2", [1, 2])
    assert counts(merge(tmp_path / "out", one, two)) == (3, 0, 1, 12, 3, 0)
    before = read_index(tmp_path / "out"), sizes(tmp_path / "out")
    assert counts(merge(tmp_path / "out", one, two)) == (0, 0, 4, 0, 0, 0)
    assert (read_index(tmp_path / "out"), sizes(tmp_path / "out")) == before


def sizes(index: Path) -> list[int]:
    return [path.stat().st_size for path in sorted((index / "features").iterdir())]


def test_an_index_with_content_stays_as_it_is_and_gains(tmp_path: Path) -> None:
    out, one = build(tmp_path / "out", [0, 1]), build(tmp_path / "1", [2])
    with create(one) as store:
        add_video(store, "v0", seed=0, path="/elsewhere/copy.mp4")
    mine = read_index(out)
    assert counts(merge(out, one)) == (1, 0, 1, 4, 2, 0)
    contents, paths = read_index(out)
    assert {name: contents[name] for name in mine[0]} == mine[0]
    assert {name: paths[name] for name in mine[1]} == mine[1]
    assert file(out, "/elsewhere/copy.mp4").video == file(out, "/videos/v0.mp4").video, "linked"


def test_sources_are_not_touched(tmp_path: Path) -> None:
    one = build(tmp_path / "1", [0])
    before = {path: path.read_bytes() for path in one.rglob("*") if path.is_file()}
    merge(tmp_path / "out", one)
    assert {path: path.read_bytes() for path in one.rglob("*") if path.is_file()} == before


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """Make an index that was interrupted in its one video, after two of four segments."""
    with create(tmp_path / "half") as store:
        video = store.begin_video("v1", duration=40.0, facts={"codec": "grey"}, num_segments=4)
        store.set_file("/videos/v1.mp4", state="running", video=video)
        for number in (0, 1):
            content = 100 + number
            store.add_segment(
                video, number, 10.0 * number, 10.0 * number + 10, embedding(content), tokens=tokens(content)
            )
    return tmp_path / "half"


def test_what_is_incomplete_is_completed_wherever_it_is(tmp_path: Path, half: Path) -> None:
    whole = build(tmp_path / "whole", [1])
    assert counts(merge(half, whole)) == (0, 1, 0, 2, 0, 1)
    assert read_index(half) == read_index(whole)
    one = build(tmp_path / "1", [0, 1])
    expected = read_index(one)
    with create(tmp_path / "2"):
        pass
    assert merge(tmp_path / "out", half, one).num_segments == 8
    assert read_index(tmp_path / "out") == expected


def test_what_is_whole_nowhere_comes_as_far_as_it_is(tmp_path: Path, half: Path) -> None:
    assert counts(merge(tmp_path / "out", half)) == (1, 0, 0, 2, 1, 0)
    assert file(tmp_path / "out", "/videos/v1.mp4").state == "pending"
    with Store.open(tmp_path / "out") as store:
        assert store.is_complete("v1") is None
        assert len(store) == 2, "and can be found"
    assert counts(merge(tmp_path / "out", half)) == (0, 0, 0, 0, 0, 0)


def test_what_was_cut_differently_and_is_not_whole_changes_nothing(tmp_path: Path, half: Path) -> None:
    with create(tmp_path / "other") as store:
        video = store.begin_video("v1", duration=40.0, facts={}, num_segments=2)
        store.set_file("/videos/v1.mp4", state="running", video=video)
        store.add_segment(video, 1, 20.0, 40.0, embedding(7))
    before = read_index(half)[0]
    assert counts(merge(half, tmp_path / "other")) == (0, 0, 1, 0, 0, 1)
    assert read_index(half)[0] == before
    with create(tmp_path / "other") as store:
        store.add_segment(video, 0, 0.0, 20.0, embedding(6))
        store.finish_video(video)
    merge(half, tmp_path / "other")
    assert read_index(half)[0] == read_index(tmp_path / "other")[0], "whole, it starts over"


def test_states_and_reasons_come_along(tmp_path: Path) -> None:
    one = build(tmp_path / "1", [0, 1])
    with create(one) as store:
        store.set_file("/videos/bad.mp4", state="failed", reason="no video", num_bytes=3, mtime_ns=4)
        store.set_file("/videos/new.mp4", state="pending")
        store.set_file("/videos/v1.mp4", state="missing", reason="the file is gone")
        video = store.begin_video("v9", duration=20.0, facts={}, num_segments=2)
        store.add_segment(video, 0, 0.0, 10.0, embedding(9))
        store.finish_video(video, salvaged="the file ends early")
        store.set_file("/videos/cut.mp4", state="done", video=video)
    expected = read_index(one)
    merge(tmp_path / "out", one)
    assert read_index(tmp_path / "out") == expected
    with Store.open(tmp_path / "out") as store:
        assert len(store) == 5, "what is missing is not found"


@pytest.mark.parametrize(
    ("mine", "its", "state", "told"),
    [
        ("done", "failed", "done", True),  # of the same file another could read more
        ("done", "missing", "done", False),
        ("missing", "done", "done", False),
        ("pending", "failed", "failed", False),
        ("failed", "done", "done", True),
    ],
)
def test_of_one_file_the_index_that_got_further_is_believed(
    tmp_path: Path, mine: str, its: str, state: str, *, told: bool
) -> None:
    for name, given in (("out", mine), ("1", its)):
        with create(tmp_path / name) as store:
            if given in ("done", "missing"):
                add_video(store, "v5", seed=5)
            facts = {"num_bytes": 5, "mtime_ns": 5} if given != "pending" else {}
            store.set_file("/videos/v5.mp4", state=given, reason=f"is {given}", **facts)  # type: ignore[arg-type]
    report = merge(tmp_path / "out", tmp_path / "1")
    record = file(tmp_path / "out", "/videos/v5.mp4")
    assert (record.state, record.reason) == (state, f"is {state}")
    assert [path for path, _ in report.disagreed] == (["/videos/v5.mp4"] if told else [])


@pytest.mark.parametrize("newer", ["out", "1"])
def test_of_a_changed_file_the_later_content_is_believed_and_it_is_said(tmp_path: Path, newer: str) -> None:
    for name in ("out", "1"):
        with create(tmp_path / name) as store:
            seed = 7 if name == newer else 3
            add_video(store, f"v{seed}", seed=seed, path="/videos/a.mp4")
    report = merge(tmp_path / "out", tmp_path / "1")
    older = ({"out", "1"} - {newer}).pop()
    assert [path for path, _ in report.disagreed] == ["/videos/a.mp4"]
    assert f"{tmp_path / newer} is believed, not {tmp_path / older}: its file changed later" in report.disagreed[0][1]
    assert report.num_segments == (4 if newer == "1" else 0), "what no path holds is not copied"
    with Store.open(tmp_path / "out") as store:
        found = [store.video(each.id).fingerprint for each in store.videos()]
    assert found == ["v7"]
    assert file(tmp_path / "out", "/videos/a.mp4").mtime_ns == 7


def test_damaged_segments_are_left_out_and_encoded_by_the_next_run(tmp_path: Path) -> None:
    one = build(tmp_path / "1", [0, 1, 2])
    damage(one / "features" / "video.f16", 5 * DIM * 2)  # the second segment of the second video
    report = merge(tmp_path / "out", one)
    assert counts(report)[:4] == (3, 0, 0, 11)
    assert [path for path, _ in report.damaged] == ["/videos/v1.mp4"]
    assert "row 5 is damaged" in report.damaged[0][1]
    assert file(tmp_path / "out", "/videos/v1.mp4").state == "pending"
    with Store.open(tmp_path / "out") as store:
        assert store.is_complete("v1") is None
        assert store.verify() == []
    assert merge(tmp_path / "out", one).damaged == report.damaged, "said as long as it is so"
    assert counts(merge(tmp_path / "out", build(tmp_path / "2", [1]))) == (0, 1, 0, 1, 0, 1)
    assert file(tmp_path / "out", "/videos/v1.mp4").state == "done"


def test_an_interrupted_merge_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "BATCH", 6)
    one, two, whole = (build(tmp_path / name, s) for name, s in (("1", [0, 1, 2]), ("2", [3]), ("all", range(4))))
    cut_short = 0
    for stop in range(12):
        calls = 0

        def interrupt(_done: int, _total: int, stop: int = stop) -> None:
            nonlocal calls
            calls += 1
            if calls > stop:
                raise KeyboardInterrupt

        report = merge_indexes([one, two], tmp_path / "out", on_progress=interrupt)
        cut_short += report.interrupted
    assert 0 < cut_short < 12
    assert read_index(tmp_path / "out") == read_index(whole)
    assert sizes(tmp_path / "out") == sizes(whole)


def test_progress_counts_to_its_end(tmp_path: Path) -> None:
    one, two = build(tmp_path / "1", [0, 1]), build(tmp_path / "2", [1, 2])
    seen: list[tuple[int, int]] = []
    merge_indexes([one, two], tmp_path / "out", on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (16 + 3, 16 + 3)


def prepare(path: Path, ranker: str | None, head: str | None = None) -> Path:
    with create(path) as store:
        if ranker is not None:
            facts = {"name": ranker, "fingerprint": f"{ranker}-print", "tokens": "int8"}
            store.set_meta(RANKER, json.dumps(facts))
        if head is not None:
            store.set_meta(HEAD, head)
    return path


def test_indexes_that_do_not_go_together_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    one = build(prepare(tmp_path / "1", "ucofia"), [0])
    other = build(prepare(tmp_path / "2", "glscl"), [1])
    with create(tmp_path / "3", fingerprint="tower-2"):
        pass
    plain = build(tmp_path / "4", [2])
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
    assert [record.path for record in Store.open(plain).files()] == ["/videos/v2.mp4"]


def test_what_it_was_made_for_comes_along_and_differences_are_told(tmp_path: Path) -> None:
    empty = prepare(tmp_path / "empty", None)
    one = prepare(tmp_path / "1", "ucofia", "/heads/a.safetensors")
    two = prepare(tmp_path / "2", "ucofia", "/heads/b.safetensors")
    with create(two) as store:
        store.set_meta(f"{CALIBRATION}.ucofia", b"numbers")
        store.set_meta(f"{CALIBRATION}.none", "")
    report = merge(tmp_path / "out", empty, one, two)
    with Store.open(tmp_path / "out") as store:
        assert json.loads(str(store.get_meta(RANKER)))["name"] == "ucofia"
        assert store.get_meta(HEAD) == "/heads/a.safetensors"
        assert store.get_meta(f"{CALIBRATION}.ucofia") is None
    assert report.notes == [
        f"{empty}: its grounding head none is /heads/a.safetensors in the merged index",
        f"{two}: its grounding head /heads/b.safetensors is /heads/a.safetensors in the merged index",
        f"{two}: its calibration is not copied: run vidret calibrate again",
    ]


def test_a_calibration_that_does_not_know_new_segments_is_told(tmp_path: Path) -> None:
    out, one = build(tmp_path / "out", [0]), build(tmp_path / "1", [1])
    with create(out) as store:
        store.set_meta(f"{CALIBRATION}.none", b"numbers")
    told = f"{out}: its calibration does not cover the new segments: run vidret calibrate again"
    assert merge(out, one).notes == [told]
    assert merge(out, one).notes == []


def test_kept_moments_come_with_their_contents(tmp_path: Path) -> None:
    one, two = build(tmp_path / "1", [0, 1]), build(tmp_path / "2", [1])
    for index, name in ((one, "v0"), (one, "v1"), (two, "v1"), (two, "v8")):
        (index / FOLDER).mkdir(parents=True, exist_ok=True)
        (index / FOLDER / f"{name}.zip").write_text(f"{name} in {index.name}")
    report = merge(tmp_path / "out", one, two)
    kept = {path.name: path.read_text() for path in (tmp_path / "out" / FOLDER).iterdir()}
    assert kept == {"v0.zip": "v0 in 1", "v1.zip": "v1 in 1"}
    assert report.moments == 2
    assert merge(tmp_path / "out", one, two).moments == 0


def test_a_search_finds_what_it_would_have_found(tmp_path: Path) -> None:
    films = tmp_path / "films"
    for number, colour in enumerate(COLOURS):
        other = list(COLOURS)[number - 1]
        write_film(films / str(number % 2) / f"{colour}.mp4", (colour, 4 + number), (other, 2))
    (films / "1" / "bad.mp4").write_text("no video")
    for name, folder in (("even", films / "0"), ("odd", films / "1"), ("all", films)):
        Engine(tmp_path / name, ColourEncoder()).index([folder])
    merge(tmp_path / "out", tmp_path / "even", tmp_path / "odd")
    merged, built = (Engine(tmp_path / name, ColourEncoder()) for name in ("out", "all"))
    for query in (*COLOURS, "red -blue", "something else"):
        mine, its = merged.search(query), built.search(query)
        assert [(hit.path, hit.score, hit.time, hit.weak) for hit in mine] == [
            (hit.path, hit.score, hit.time, hit.weak) for hit in its
        ]
        spans = [
            [(m.path, m.start, m.end, m.score) for m in each.locate(query, 9, weak=True)] for each in (merged, built)
        ]
        assert spans[0] == spans[1]
    assert merged.failed() == built.failed()
    again = merged.index([films])
    assert (again.encoded, again.unchanged, len(again.failed)) == (0, 6, 1), "nothing is encoded again"


def test_an_index_whose_first_writer_was_killed_at_once_merges_as_an_empty_one(tmp_path: Path) -> None:
    with create(tmp_path / "whole") as store:
        add_video(store, "v0", seed=0)
    for name in ("source", "target"):
        create(tmp_path / name).close()
        shutil.rmtree(tmp_path / name / "features")
    report = merge_indexes([tmp_path / "source", tmp_path / "whole"], tmp_path / "target")
    assert (report.copied, report.num_segments, report.damaged) == (1, 4, [])
