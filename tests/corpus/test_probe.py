"""Probes of encoders whose weaknesses are known."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import vidret.encode.families.registry
from tests.evaluate.world import run, write_rows
from tests.fakes import ColourEncoder, PatchEncoder, write_film
from vidret.corpus import probe, probe_world
from vidret.corpus.minimal_pairs import PROBE_KINDS
from vidret.corpus.probe import ProbeReport, probe_encoder, score_texts_by_rank
from vidret.corpus.probe_page import explain_report, write_probe_page
from vidret.corpus.probe_world import ProbeWorld, draw_probe_world, read_probe_world
from vidret.errors import VidretError
from vidret.types import Frames, SegmentEmbedding


class TeacherEncoder(PatchEncoder):
    """Knows the captions of a world: the vector of a video is that of its own caption, blurred by what differs."""

    def __init__(self, world: ProbeWorld) -> None:
        super().__init__()
        self._captions = {
            video.pixels.tobytes(): text for video, text in zip(world.videos, world.captions, strict=False)
        }

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        embeddings = []
        for frames, plain in zip(batch, super().encode_frames(batch), strict=True):
            caption = self._captions.get(frames.pixels.tobytes())
            vector = plain.video if caption is None else self.encode_text([caption])[0].sentence
            embeddings.append(SegmentEmbedding(vector, plain.frames, plain.times))
        return embeddings


@pytest.fixture(scope="module")
def world() -> ProbeWorld:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe_world, "NUM_SYNTHETIC_PAIRS", 30)
        return draw_probe_world(32)


@pytest.fixture(scope="module", autouse=True)
def few_corrupted() -> Iterator[None]:
    """Corrupt few videos, which takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "MAX_CORRUPTED", 4)
        yield


@pytest.fixture(scope="module")
def report(world: ProbeWorld) -> ProbeReport:
    """Probe an encoder that averages frames."""
    return probe_encoder(PatchEncoder(raw=False), world)


def test_a_synthetic_world_has_every_kind(world: ProbeWorld) -> None:
    assert {pair.kind for pair in world.pairs} == set(PROBE_KINDS)
    assert len(world.captions) == 60
    assert len(world.videos) == 90  # each pair has one with another background
    assert all(len(frames) == probe_world.NUM_FRAMES for frames in world.videos)
    assert all(pair.right != pair.wrong for pair in world.pairs)


def test_averaging_frames_is_exactly_at_chance_on_order(report: ProbeReport) -> None:
    order = next(kind for kind in report.kinds if kind.kind == "order in time")
    assert order.accuracy.percent == 50.0
    assert order.accuracy.num_trials == 24


def test_an_encoder_that_knows_its_captions_is_trusted(world: ProbeWorld) -> None:
    report = probe_encoder(TeacherEncoder(world), world)
    by_kind = {result.kind: result.accuracy for result in report.kinds}
    for kind in ("order in time", "word order"):
        assert (by_kind[kind].percent, by_kind[kind].verdict) == (100.0, "trusted")
    assert report.text_score == 100.0
    assert report.absence is not None
    assert report.absence.auroc == 1.0
    text = " ".join(explain_report(report))
    assert "Can be trusted: " in text
    assert "'Nothing matches well' can be trusted" in text


def test_corruptions_that_an_average_does_not_see_are_tolerated(report: ProbeReport) -> None:
    by_name = {corruption.name: corruption for corruption in report.corruptions}
    assert len(by_name) == 7
    assert all(len(corruption.found) == len(corruption.text) == 5 for corruption in report.corruptions)
    assert by_name["blur"].found[0] == 100.0
    assert report.num_corrupted == 4
    assert any(line.startswith("Blur ") for line in explain_report(report))


def test_ranks_count_ties_half() -> None:
    assert score_texts_by_rank(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)) == 100.0
    assert score_texts_by_rank(np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)) == 50.0


def test_a_page_says_it_in_words(report: ProbeReport, tmp_path: Path) -> None:
    write_probe_page(report, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Where patches can be trusted" in page
    assert "No better than chance: " in page
    assert "what comes first" in page
    assert "<script" not in page


def test_a_folder_is_probed_by_rules_on_its_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colours = ("red", "green", "blue", "yellow")
    for colour in colours:
        write_film(tmp_path / f"{colour}.mp4", (colour, 1))
    (tmp_path / "bad.mp4").write_text("no video")
    rows = [{"video": f"{name}.mp4", "captions": [name]} for name in (*colours, "bad", "gone")]
    write_rows(tmp_path / "captions.jsonl", rows)
    monkeypatch.setattr(vidret.encode.families.registry, "load_encoder", lambda *_args, **_kwargs: ColourEncoder())
    answer = run("eval", "probe", tmp_path, "--html", tmp_path / "page.html")
    assert answer.code == 0, answer.err
    assert "Too few pairs for a claim: 20 are needed: attribute swap (100 %)." in answer.out
    assert "Not tested, for want of a caption that a rule applies to: relation swap, word order" in answer.out
    assert "Whether 'nothing matches well' can be trusted needs 20 queries: AUROC 1.00 over 4 queries; " in answer.out
    assert "note: missing: 1 video" in answer.err
    assert "bad.mp4 is unreadable" in answer.err
    found = json.loads(run("eval", "probe", tmp_path, "--json").out)
    assert (found["num_videos"], found["text_score"]) == (4, 100.0)
    assert found["kinds"][0]["accuracy"]["verdict"] == "too few"
    assert found["corruptions"][0]["levels"] == [0.005, 0.01, 0.02, 0.04, 0.08]
    write_rows(tmp_path / "captions.jsonl", rows[:1])
    with pytest.raises(VidretError, match="must have at least 2 readable videos with captions, got 1"):
        read_probe_world(tmp_path, ColourEncoder.resize)


def test_vectors_that_are_not_finite_stop_a_probe(world: ProbeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = PatchEncoder(raw=False)
    broken = SegmentEmbedding(np.full(64, np.nan, np.float32), np.zeros((1, 64), np.float32), np.zeros(1))
    monkeypatch.setattr(encoder, "encode_frames", lambda batch: [broken for _ in batch])
    with pytest.raises(VidretError, match="patches: vectors must be finite, got NaN or infinity for 90 videos"):
        probe_encoder(encoder, world)
