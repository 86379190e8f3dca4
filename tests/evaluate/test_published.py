"""Protocols of video embedders, and published results next to one's own."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.world import load_colours, read, run
from tests.fakes import write_film
from tests.made_benchmarks import TEST, list_stems, write_msrvtt
from vidret.data.records import Caption, Split
from vidret.evaluate.published import PROTOCOLS, PUBLISHED, count_rows, list_published
from vidret.evaluate.retrieval import note_differences


@pytest.fixture(scope="module")
def msrvtt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("msrvtt")
    write_msrvtt(folder)
    for stem, colour in zip(list_stems(TEST), ("red", "green", "blue"), strict=True):
        write_film(folder / "videos" / f"{stem}.mp4", (colour, 4))
    return folder


def evaluate(folder: Path, out: Path, *more: object) -> Any:
    settings = ("--data", "msrvtt-1k-a", "--videos", folder / "videos", "--annotations", folder, "--workers", 1)
    return run("eval", "retrieval", *settings, "--out", out, *more)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_sets_frames_and_says_what_is_not_comparable(protocol: str, msrvtt: Path, tmp_path: Path) -> None:
    answer = evaluate(msrvtt, tmp_path / "out", "--protocol", protocol)
    assert answer.code == 0, answer.err
    report = read(tmp_path / "out" / "report.json")
    marks = {"classic": "", "mmeb-v2": "#frames=64#rule=mmeb", "mteb": "#frames=64#fps=2#rule=mteb"}[protocol]
    assert (report["model"]["name"], report["settings"]["protocol"]) == (f"colours{marks}#whole", protocol)
    wanted = 879 if protocol == "mteb" else 1000
    assert f"not a result by the protocol {protocol}: 3 of {wanted} queries" in answer.err
    assert report["settings"]["rows"] == [3, wanted]
    assert not report["settings"]["complete"]
    assert report["settings"]["metric"] == ("nDCG@10" if protocol == "mteb" else "R@1")
    compared = run("eval", "compare", tmp_path / "out", tmp_path / "out").out
    assert ("nDCG@10" in answer.out, "nDCG@10" in compared) == (protocol == "mteb",) * 2, "the main score"
    other = "mmeb-v2" if protocol == "mteb" else "mteb"
    again = evaluate(msrvtt, tmp_path / "out", "--protocol", other)
    assert again.code == 1
    assert "must be those of the index" in again.err


def complete(folder: Path, **settings: object) -> None:
    """Change the settings of a report."""
    path = folder / "report.json"
    facts = read(path)
    facts["settings"] |= settings
    path.write_text(json.dumps(facts))


def test_published_results_stand_next_to_complete_ones(msrvtt: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        assert evaluate(msrvtt, folder, "--protocol", "1k-a").code == 0
    assert "published" not in run("eval", "compare", first, second).out
    complete(first, complete=True)
    answer = run("eval", "compare", first, second)
    assert answer.code == 0, answer.err
    table = answer.out[answer.out.index("published results") :].splitlines()[1:]
    assert table[0].split()[:2] == ["model", "R@1,"]
    assert [line.split()[0] for line in table[1:3]] == ["colours#whole"] * 2
    assert table[3].split()[:3] == ["PE-Core-G,", "published", "51.2"], "the best first"
    assert len(table) == 3 + sum(result.benchmark == "msrvtt-1k-a" for result in PUBLISHED)
    complete(first, protocol="mteb")
    answer = run("eval", "compare", first, second)
    assert answer.code == 1
    assert "reports must be by one protocol" in answer.err
    assert "got mteb and classic" in answer.err


def test_published_results_are_of_the_test_split() -> None:
    def count(name: str) -> int:
        return len(list_published({"data": {"name": name}}))

    assert (count("vatex-test-1500"), count("activitynet-val_1"), count("msrvtt-1k-a-test")) == (2, 3, 12)
    for name in ("vatex-train", "vatex-val-1500", "activitynet-train", "msrvtt-1k-a-train-9k", "my-folder"):
        assert count(name) == 0


def test_rows_are_those_of_a_file(msrvtt: Path, tmp_path: Path) -> None:
    """By the ids of videos; what the split does not have is an error, as are names of protocols."""
    stems = list_stems(TEST)
    listed = tmp_path / "rows.txt"
    listed.write_text("\n".join(stems[1:]) + "\n")
    answer = evaluate(msrvtt, tmp_path / "out", "--protocol", "mteb", "--rows", listed)
    assert answer.code == 0, answer.err
    report = read(tmp_path / "out" / "report.json")
    assert [row["video"] for row in report["per_query"]] == stems[1:]
    assert report["data"]["num_videos"] == 2
    assert report["settings"]["rows"] == [2, 879]
    listed.write_text("video99999\n")
    answer = evaluate(msrvtt, tmp_path / "other", "--protocol", "mteb", "--rows", listed)
    assert answer.code == 1
    assert "must list ids of msrvtt-1k-a-test, got video99999" in answer.err
    answer = evaluate(msrvtt, tmp_path / "other", "--protocol", "mmeb")
    assert answer.code == 2
    assert "protocol must be classic, mmeb-v2, mteb, or 1k-a for MSR-VTT, got mmeb" in answer.err


def test_a_protocol_gives_queries_its_instruction_for_as_long_as_it_evaluates(msrvtt: Path, tmp_path: Path) -> None:
    loaded: list[Any] = []

    def load(name: str = "starter", **settings: Any) -> Any:
        encoder: Any = load_colours(name, **settings)
        encoder.instruction = "its own"
        loaded.append(encoder)
        return encoder

    for protocol, words in (("classic", "its own"), ("mteb", "Find the video clip that matches the given caption.")):
        settings = ("--data", "msrvtt-1k-a", "--videos", msrvtt / "videos", "--annotations", msrvtt, "--workers", 1)
        out = tmp_path / protocol
        assert run("eval", "retrieval", *settings, "--out", out, "--protocol", protocol, load=load).code == 0
        assert read(out / "report.json")["settings"]["instruction"] == words
        assert loaded[-1].instruction == "its own"


def make_split(name: str, num: int) -> Split:
    captions = tuple(Caption(id=str(index), video=str(index), text="a") for index in range(num))
    return Split(name, (), tuple(map(str, range(num))), captions)


def test_rows_of_a_protocol_are_counted() -> None:
    split = make_split("msrvtt-1k-a-test", 1000)
    assert count_rows("classic", split) == count_rows("mmeb-v2", split) == 1000
    other = make_split("vatex-test", 5)
    assert (count_rows("classic", other), count_rows("mteb", other)) == (5, None)
    assert count_rows("classic", make_split("msrvtt-1k-a-train-9k", 7)) == 7
    for rated, protocol, num, noted in (
        (split, "mteb", 879, ""),
        (split, "mteb", 1000, "1000 of 879 queries"),
        (split, "classic", 999, "999 of 1000 queries"),
        (other, "classic", 5, ""),
        (other, "mteb", 5, "5 of an unknown number of queries"),
    ):
        notes = note_differences(rated, rated.captions[:num], None, protocol).notes
        assert notes == ((f"not a result by the protocol {protocol}: {noted}",) if noted else ())
