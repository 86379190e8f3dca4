"""The scripts under tools/: what they draw is what was merged or measured."""

import json
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vidret.engine
from tests.spoken import NamedColours, make_films
from tests.tool_loading import load_tool
from vidret.channels.picture.ranking import load_ranker
from vidret.encode.clip.model import Card, ClipModel, save_model
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.text import TextShape
from vidret.encode.clip.vision import VisionShape, VisionTower
from vidret.store.records import RANKER
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.text import compose
from vidret.types import Filters, Frames, TextEmbedding

SHAPE = VisionShape(image_size=32, patch=8, width=24, layers=4, heads=2, dim=16)
SCHEDULE = MergeSchedule(layers=(1, 2), factors=(2, 2), r=2)


@pytest.fixture(scope="module")
def tool() -> Any:
    return load_tool("draw_merging")


@pytest.fixture(scope="module")
def frames() -> Frames:
    rng = np.random.default_rng(0)
    flat = rng.integers(0, 256, (7, 4, 4, 3)) // 64 * 64
    return Frames(np.kron(flat, np.ones((1, 8, 8, 1))).astype(np.uint8), np.arange(7) / 2)


@pytest.fixture(scope="module")
def merged(tool: Any, frames: Frames) -> Any:
    torch.manual_seed(0)
    return tool.map_merging(VisionTower(SHAPE, merging=SCHEDULE, num_frames=7), frames.pixels)


def test_every_patch_has_a_token_and_every_size_is_the_number_of_its_patches(merged: Any) -> None:
    assert merged.sources.shape == (7, 4, 4)
    assert np.array_equal(np.bincount(merged.sources.ravel(), minlength=len(merged.sizes)), merged.sizes)
    assert merged.sizes.max() > 1


def test_patches_of_one_token_get_one_colour_and_lone_ones_keep_theirs(tool: Any, merged: Any) -> None:
    colours = tool.choose_colours(merged.sizes)
    assert len(np.unique(colours, axis=0)) == len(merged.sizes)
    grey = np.full((32, 32, 3), 120, np.uint8)
    seen: dict[int, set[bytes]] = {}
    for tokens in merged.sources:
        tinted = tool.tint_frame(grey, tokens, merged.sizes, colours)
        for (row, column), token in np.ndenumerate(tokens):
            middle = tinted[8 * row + 4, 8 * column + 4]
            assert np.array_equal(middle, grey[0, 0]) == (merged.sizes[token] == 1)
            seen.setdefault(int(token), set()).add(middle.tobytes())
    assert all(len(shades) == 1 for shades in seen.values())
    of_merged = [next(iter(seen[token])) for token in seen if merged.sizes[token] > 1]
    assert len(set(of_merged)) == len(of_merged)


def test_tokens_are_parted_by_lines(tool: Any) -> None:
    tokens, grey = np.array([[0, 0], [1, 2]]), np.full((16, 16, 3), 120, np.uint8)
    sizes = np.array([2, 1, 1])
    tinted = tool.tint_frame(grey, tokens, sizes, tool.choose_colours(sizes))
    dark = (tinted == tool.BORDER).all(axis=-1)
    expected = np.zeros((16, 16), bool)
    expected[8] = expected[8:, 8] = True
    assert np.array_equal(dark, expected)


def test_the_picture_holds_every_frame_and_its_map(tool: Any, frames: Frames, merged: Any) -> None:
    picture = tool.draw_map(frames, merged, "a video", "a note")
    columns, rows, head = tool.COLUMNS, 2, tool.GAP + 4 * tool.LINE
    height = head + rows * (2 * 32 + tool.LINE + tool.GAP)
    assert picture.size == (max(tool.MIN_WIDTH, tool.GAP + columns * (32 + tool.GAP)), height)
    pixels = np.asarray(picture)
    top, left = head + 2 * 32 + tool.LINE + tool.GAP, tool.GAP
    assert np.array_equal(pixels[top : top + 32, left : left + 32], frames.pixels[6])
    below = tool.tint_frame(frames.pixels[6], merged.sources[6], merged.sizes, tool.choose_colours(merged.sizes))
    assert np.array_equal(pixels[top + 32 : top + 64, left : left + 32], below)


@pytest.mark.parametrize("merging", [SCHEDULE, None])
def test_a_model_file_is_drawn_by_its_own_weights(tool: Any, tmp_path: Path, merging: MergeSchedule | None) -> None:
    shape = VisionShape(image_size=32, patch=8, width=24, layers=12, heads=2, dim=16)
    text = TextShape(context=8, vocabulary=20, width=16, layers=1, heads=2, dim=16)
    model = ClipModel(Card("tempme", "tiny", shape, text, merging=merging, lora_rank=2))
    save_model(model, tmp_path / "tiny.safetensors")
    tower, resize, _, _ = tool.load_tower(str(tmp_path / "tiny.safetensors"), 12, 1)
    assert torch.equal(tower.patches.weight, model.vision.patches.weight)
    assert tower.merging.r == 1
    assert tower.merging.layers == (merging or MergeSchedule()).layers
    assert resize.crop == 32


KEYS = (
    "build_seconds",
    "p50_ms_at_10",
    "p50_ms_at_200",
    "p99_ms_at_10",
    "recall_at_10_texts",
    "ram_mb",
    "disk_mb",
    "open_ms",
)


def test_stores_are_drawn_as_far_as_they_were_measured(tmp_path: Path) -> None:
    bench = load_tool("bench_scale")
    cells = {"1000/flat": dict.fromkeys(KEYS, 1.0), "100000/ivf": dict.fromkeys(KEYS, 0.5)}
    bench.draw_curves(cells, tmp_path / "curves.png")
    pixels = {tuple(pixel) for pixel in np.asarray(Image.open(tmp_path / "curves.png")).reshape(-1, 3).tolist()}
    shown = [tuple(colour) in pixels for colour in load_tool("draw_scale").COLOURS.values()]
    assert shown == [True, True, False, False, False]
    assert list(bench.cells_to_do([100_000, 1000], ["flat", "ivf"], cells)) == [(1000, "ivf"), (100_000, "flat")]


def test_a_searched_index_has_filters_that_keep_a_half_and_a_thousandth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = load_tool("scale_index")
    monkeypatch.setattr(made, "SEGMENTS_PER_VIDEO", 2)
    index, rng = tmp_path / "index", np.random.default_rng(0)
    made.make_pictures(index, 2000, lambda num, _: rng.standard_normal((num, 8)).astype(np.float32), 8)
    folders = [str(made.find_files(index) / name) for name in ("even", "even/0")]
    with Store.open(index) as store:
        assert [store.snapshot().count_videos(Filters(folder=folder)) for folder in folders] == [500, 1]
        commits = made.commit_segments(index, 0.0)
        assert [next(commits), next(commits), len(store)] == [0, 1, 2002]
        commits.close()
    monkeypatch.setattr(made, "SENTENCES", ["a dog runs", "a car stops"])
    made.make_texts(index, 1500, common=True)
    with TextStore.open(index) as texts:
        assert [len(texts), len(texts.index.find_phrase("zebra crossing", 9))] == [1500, 2]
        assert texts.index.terms("good")[0].num_texts >= 700


def test_alternatives_are_measured_in_turn() -> None:
    bench, calls = load_tool("bench_scale"), list[tuple[str, str]]()
    asks = {name: partial(lambda name, query: calls.append((name, query)), name) for name in ("old", "new")}
    told = bench.measure_in_turn(asks, ["a", "b"])
    assert calls == [(name, query) for query in ("a", "a", "b") for name in ("old", "new")]
    assert {key for own in told.values() for key in own} == {"p50_ms", "p99_ms", "p50_cpu_ms"}
    assert bench.measure_threads(time.sleep, [0.02] * 3) > 1.5
    assert bench.count_path(lambda: compose("dog")) == {"modules": 1, "functions": 1}


def test_a_measured_index_is_as_the_starter_makes_one(tmp_path: Path) -> None:
    bench = load_tool("made_index")
    encoder = SimpleNamespace(name="starter", fingerprint="made", dim=16)
    bench.build_index(tmp_path, encoder, 60, 4)
    with Store.open(tmp_path) as store:
        facts, ids = store.info(), store.searchable()
        assert (facts.segments, facts.with_tokens, facts.videos) == (60, 60, 2)
        made = json.loads(str(store.metadata.get(RANKER)))
        ranker = load_ranker(made["name"], encoder, tokens=made["tokens"])
        assert (made["name"], made["fingerprint"]) == ("ucofia", ranker.fingerprint)
        frames, packed = store.features.read_frames(ids), store.features.read_tokens(ids)
    assert {len(rows) for rows, _ in frames} == {4}
    assert len(set(map(len, packed))) == 1
    words = np.eye(1, 16, dtype=np.float32)
    text = TextEmbedding("", words[0], words)
    found = ranker.score([text], packed, [rows.astype(np.float32) for rows, _ in frames])
    assert set(found.scores) == {"segment", "frames", "words"}
    assert all(np.isfinite(level).all() for level in found.scores.values())


def test_a_scale_places_values_by_their_logarithm() -> None:
    scale = load_tool("draw_scale").Scale(10.0, 1000.0, 0.0, 100.0, log=True)
    assert [round(scale(value)) for value in (10, 100, 1000, 5000)] == [0, 50, 100, 100]
    assert scale.ticks() == [10, 100, 1000]


def test_queries_are_measured_in_a_given_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    index = make_films(tmp_path)
    row = {"query": "red", "kind": "picture", "file": "red.mp4", "relevant_windows": [[0, 12]]}
    absent = {"query": "purple", "kind": "absent", "file": None}
    lines = "".join(f"{json.dumps(each)}\n" for each in (row, absent, row))
    (tmp_path / "queries.jsonl").write_text(lines, "utf-8")
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: NamedColours())
    for limit, counts in (((), ["2", "1"]), (("--limit", "1"), ["1"])):
        monkeypatch.setattr(sys, "argv", ["measure_words", str(tmp_path), "--index", str(index), *limit])
        load_tool("measure_words").main()
        table = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert [line[1] for line in table if line[0] in ("picture", "absent")] == counts
        assert table[2][:4] == ["picture", counts[0], "100.0", "100.0"]
        assert table[-1][:2] == ["search,", "p50:"]
