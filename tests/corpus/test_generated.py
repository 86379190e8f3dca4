"""Evaluation of generated videos, over films of plain colours."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import vidret.encode.families.registry
from tests.evaluate.world import run
from tests.fakes import ColourEncoder, write_film
from vidret.corpus.generated import evaluate_generated, find_topics, read_frame_vectors, read_prompts
from vidret.errors import VidretError
from vidret.types import Frames

COLOURS = ("red", "green", "blue", "yellow", "white", "black")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make six films of one colour in videos/, and their prompts, of which the last is wrong."""
    folder = tmp_path_factory.mktemp("generated")
    for colour in COLOURS:
        write_film(folder / "videos" / f"{colour}.mp4", (colour, 4))
    write_prompts(folder / "prompts.jsonl", {f"{colour}.mp4": colour for colour in COLOURS[:-1]} | {"black.mp4": "red"})
    return folder


def write_prompts(path: Path, prompts: Mapping[str, str]) -> Path:
    path.write_text("".join(json.dumps({"prompt": text, "video": video}) + "\n" for video, text in prompts.items()))
    return path


def test_a_wrong_video_has_the_worst_alignment(generated: Path) -> None:
    videos = generated / "videos" / ".." / "videos"
    report = evaluate_generated(ColourEncoder(), read_prompts(generated / "prompts.jsonl", videos)[0])
    assert (report["num_videos"], report["num_prompts"]) == (6, 5)
    assert report["prompts"][0]["prompt"] == "red"
    assert report["prompts"][0]["num_videos"] == 2
    assert report["prompts"][0]["diversity"] > 1.5 > 1.01 > report["prompts"][1]["diversity"]
    assert report["prompt_recall"] == pytest.approx(500 / 6)
    assert report["consistency"] > 0.999
    assert "stream" not in report


def test_frames_are_evenly_spaced_to_both_ends(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", ("red", 2), ("blue", 2))
    vectors = read_frame_vectors(ColourEncoder(), str(film))
    red, blue = (text.sentence for text in ColourEncoder().encode_text(["red", "blue"]))
    assert vectors.shape == (16, 3)
    assert (vectors @ red > vectors @ blue).tolist() == [True] * 8 + [False] * 8


def test_topics_of_the_file_are_ranked_worst_first(generated: Path, tmp_path: Path) -> None:
    topics = {"red": "warm", "yellow": "warm", "green": "cold", "blue": "cold", "white": "cold"}
    rows = [json.loads(line) for line in (generated / "prompts.jsonl").read_text().splitlines()]
    path = tmp_path / "prompts.jsonl"
    rows = [row | {"note": "a line\u2028that goes on"} for row in rows]  # a separator of lines, but not of JSON lines
    lines = (json.dumps({**row, "topic": topics[row["prompt"]]}, ensure_ascii=False) for row in rows)
    path.write_text("\ufeff" + "".join(line + "\n" for line in lines), "utf-8")
    videos = generated / "videos"
    prompts, read = read_prompts(path, videos)
    report = evaluate_generated(ColourEncoder(), prompts, topics=read)
    assert report["topics"][0]["topic"] == "warm"  # it has the wrong video
    assert report["topics"][0]["num_prompts"] == 2
    assert report["topics"][0]["num_videos"] == 3
    assert report["topics"][0]["below"] > 0
    assert read_prompts(generated / "prompts.jsonl", videos)[1] is None
    path.write_text(
        "".join(json.dumps(row | ({"topic": "a"} if row["prompt"] != "green" else {})) + "\n" for row in rows)
    )
    with pytest.raises(VidretError, match="all prompts must have a topic or none, got none for 'green'"):
        read_prompts(path, videos)
    path.write_text("".join(json.dumps({**row, "topic": row["video"]}) + "\n" for row in rows))
    with pytest.raises(VidretError, match="a prompt must have one topic, got two for 'red'"):
        read_prompts(path, videos)


def test_topics_are_found_among_many_prompts() -> None:
    prompts = [f"a {animal} runs number {n}" for animal in ("dog", "car") for n in range(6)]
    vectors = np.repeat(np.eye(4, dtype=np.float32)[:2], 6, axis=0)
    topics = find_topics(prompts, vectors)
    assert topics[:6] == [topics[0]] * 6
    assert topics[6:] == [topics[6]] * 6
    assert topics[0].startswith("dog")
    assert topics[6].startswith("car")
    assert find_topics(prompts[:3], vectors[:3]) == [""] * 3


def test_the_command_prints_a_table_and_json(generated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vidret.encode.families.registry, "load_encoder", lambda *_args, **_kwargs: ColourEncoder())
    common = ("eval", "generated", "--prompts", generated / "prompts.jsonl", "--videos", generated / "videos")
    answer = run(*common, "--real", generated / "videos")
    assert answer.code == 0, answer.err
    assert "STREAM-T, published exponent" in answer.out
    assert answer.out.splitlines()[-1].split()[-1] in COLOURS
    assert run(*common, "--html", generated / "page.html").code == 0
    page = (generated / "page.html").read_text()
    assert "<h3>red</h3>" in page
    assert page.count("<figure") == 4 * 6
    assert ", 1 video<" in page
    assert "<script" not in page
    assert json.loads(run(*common, "--json").out)["num_videos"] == 6


def test_what_cannot_be_scored_is_refused(generated: Path, tmp_path: Path) -> None:
    videos, prompts = generated / "videos", {f"{colour}.mp4": colour for colour in COLOURS}
    with pytest.raises(VidretError, match=r"each prompt must have its video, got none for gone\.mp4"):
        read_prompts(write_prompts(tmp_path / "a.jsonl", prompts | {"gone.mp4": "red"}), videos)
    with pytest.raises(VidretError, match=r"each video must have its prompt, got none for black\.mp4 and 4 more"):
        read_prompts(write_prompts(tmp_path / "b.jsonl", {"red.mp4": "red"}), videos)
    (tmp_path / "c.jsonl").write_text('{"prompt": 3}\n')
    with pytest.raises(VidretError, match=r"c\.jsonl:1: video is missing"):
        read_prompts(tmp_path / "c.jsonl", videos)
    with pytest.raises(VidretError, match="STREAM needs at least 6 videos of each kind, got 1 generated and 1 real"):
        evaluate_generated(ColourEncoder(), {"a": "red"}, ["b"])
    (tmp_path / "d.jsonl").write_text('{"prompt": "red", "video": "red.mp4"}\n' * 2)
    with pytest.raises(VidretError, match=r"d\.jsonl:2: each video must be listed once, got red\.mp4 again"):
        read_prompts(tmp_path / "d.jsonl", videos)
    with pytest.raises(VidretError, match="prompt must be a non-empty string, got ' '"):
        read_prompts(write_prompts(tmp_path / "e.jsonl", {"red.mp4": " "}), videos)
    encoder = ColourEncoder()
    (broken,) = encoder.encode_frames([Frames(np.zeros((16, 2, 2, 3), np.uint8), np.arange(16.0))])
    broken = replace(broken, frames=np.full((16, 3), np.nan, np.float32))
    encoder.encode_frames = lambda batch, **_: [broken for _ in batch]  # type: ignore[method-assign]
    with pytest.raises(VidretError, match=r"red\.mp4: vectors must be finite, got NaN or infinity"):
        read_frame_vectors(encoder, str(videos / "red.mp4"))
    short = write_film(tmp_path / "short.mp4", ("red", 2))
    with pytest.raises(VidretError, match="must have at least 16 frames, got 10"):
        read_frame_vectors(ColourEncoder(), str(short))
