"""Protocols of video embedders, and published results next to one's own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.world import colour_encoder, read, run
from tests.fakes import write_film
from tests.made_benchmarks import TEST, list_stems, write_msrvtt
from vidret.encode.encoder import Encoder
from vidret.encode.names import parse_model_name
from vidret.evaluate.published import PROTOCOLS, PUBLISHED, note_rows


@pytest.fixture(scope="module")
def msrvtt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("msrvtt")
    write_msrvtt(folder)
    for stem, colour in zip(list_stems(TEST), ("red", "green", "blue"), strict=True):
        write_film(folder / "videos" / f"{stem}.mp4", (colour, 4))
    return folder


def load_named(name: str = "starter", **_: Any) -> Encoder:
    """Return the encoder of colours with the marks of a name."""
    parsed = replace(parse_model_name(name), base="colours")
    encoder = colour_encoder(whole=parsed.whole)
    encoder.sampling, encoder.name = parsed.sample(encoder.sampling), str(parsed)
    return encoder


def evaluate(folder: Path, out: Path, *more: object) -> Any:
    settings = ("--data", "msrvtt-1k-a", "--videos", folder / "videos", "--annotations", folder, "--workers", 1)
    return run("eval", "retrieval", *settings, "--out", out, *more, load=load_named)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_sets_frames_and_says_what_is_not_comparable(protocol: str, msrvtt: Path, tmp_path: Path) -> None:
    answer = evaluate(msrvtt, tmp_path / "out", "--protocol", protocol)
    assert answer.code == 0, answer.err
    report = read(tmp_path / "out" / "report.json")
    marks = {"classic": "", "mmeb": "#frames=64#rule=mmeb", "mteb": "#frames=64#fps=2#rule=mteb"}[protocol]
    assert (report["model"]["name"], report["settings"]["protocol"]) == (f"colours{marks}#whole", protocol)
    assert bool(report["data"]["notes"]) == (protocol == "mteb"), "its list of 879 pairs"
    other = "mmeb" if protocol == "mteb" else "mteb"
    again = evaluate(msrvtt, tmp_path / "out", "--protocol", other)
    assert again.code == 1
    assert "must be those of the index" in again.err


def test_published_results_stand_next_to_ones_own(msrvtt: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        assert evaluate(msrvtt, tmp_path / name).code == 0
    answer = run("eval", "compare", tmp_path / "first", tmp_path / "second", load=load_named)
    assert answer.code == 0, answer.err
    table = answer.out[answer.out.index("published results") :].splitlines()[1:]
    assert table[0].split()[:2] == ["model", "R@1,"]
    assert [line.split()[0] for line in table[1:3]] == ["colours#whole"] * 2
    assert table[3].split()[:3] == ["PE-Core-G,", "published", "51.2"], "the best first"
    assert len(table) == 3 + sum(each.benchmark == "msrvtt-1k-a" for each in PUBLISHED)
    for name in ("first", "second"):
        path = tmp_path / name / "report.json"
        facts = read(path)
        facts["settings"]["protocol"] = "mteb"
        path.write_text(json.dumps(facts))
    assert "published" not in run("eval", "compare", tmp_path / "first", tmp_path / "second", load=load_named).out


def test_rows_of_a_protocol_are_counted() -> None:
    assert note_rows("mteb", "msrvtt-1k-a-test", 879) == ""
    assert note_rows("mteb", "vatex-test", 5) == "", "its rows are not known"
    assert note_rows("mteb", "msrvtt-1k-a-test", 1000).startswith("mteb has 879 queries of this benchmark, got 1000")
