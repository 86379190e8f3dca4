"""Indexing with a grounding head: what the head needs comes from the pass that encodes, and is never lost."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.grounded import NUM_LAYERS, make_encoder, write_head, write_numbers
from tests.store.samples import damage
from vidret.data.layers import LayersCache
from vidret.data.records import VideoSpan
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.engine import Engine
from vidret.ground.checkpoint import load_head
from vidret.ground.pieces import load_projected
from vidret.index.options import FileJob
from vidret.index.run_state import RunState
from vidret.search.heads.layers import Grounder
from vidret.store.lookup import count_moments
from vidret.store.records import MOMENTS, NewSegment
from vidret.store.store import Store
from vidret.video.identity import fingerprint

pytestmark = pytest.mark.usefixtures("pools")

CPU = torch.device("cpu")
TOWERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "merging": {"merging": True},
    "prompts": {"prompts": PromptShape(2, 4)},
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return films of one shot and of several, that are longer and shorter than a segment."""
    folder = tmp_path_factory.mktemp("films")
    write_numbers(folder / "shots.mp4", [*range(30), *range(140, 160), *range(60, 85)], rate=2)
    write_numbers(folder / "long.mp4", range(40))
    write_numbers(folder / "short.mp4", range(40, 47), rate=2)
    return folder


def open_index(folder: Path, head: Path | str, **tower: Any) -> Engine:
    return Engine(folder / "index", make_encoder(**tower), head=head)


def list_moments(engine: Engine) -> list[Path]:
    return sorted(path for path in (engine.path / MOMENTS).rglob("*") if path.is_file())


def read_moments(engine: Engine) -> dict[str, list[Any]]:
    return {path.name: list(load_projected(path, device=CPU)) for path in list_moments(engine)}


def check_equal(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> None:
    """Compare the tokens of videos; int8 may differ by a step where a value lies between two."""
    assert one.keys() == other.keys()
    for name, windows in one.items():
        assert [window for window, _ in windows] == [window for window, _ in other[name]]
        for (_, projected), (_, again) in zip(windows, other[name], strict=True):
            for layer in range(len(projected.layers)):
                assert projected.layers[layer].shape == again.layers[layer].shape
                difference = projected.layers[layer].int() - again.layers[layer].int()
                assert difference.abs().max() <= 1
                assert (difference != 0).float().mean() < 0.01
                torch.testing.assert_close(projected.scales[layer], again.scales[layer], rtol=2e-3, atol=0)
                if projected.biases[layer] is not None:
                    torch.testing.assert_close(projected.biases[layer], again.biases[layer])


@pytest.mark.parametrize(("tower", "shots"), [("plain", True), ("plain", False), ("merging", True), ("prompts", False)])
def test_one_pass_gives_what_a_pass_of_its_own_gives(
    films: Path, head: Path, tmp_path: Path, layer_passes: list[int], tower: str, shots: bool, caplog: Any
) -> None:
    with open_index(tmp_path / "one", head, **TOWERS[tower]) as engine:
        engine.index([films], shots=shots)
        assert layer_passes == []
        one = read_moments(engine)
        assert len(one) == 3
        steps: list[tuple[int, int]] = []
        engine.prepare_moments(on_progress=lambda done, total: steps.append((done, total)))
        assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
        assert engine.locate("a dog", 3, weak=True)
        assert layer_passes == []
        assert "one more pass" not in caplog.text
        vectors = engine.curve("a dog", films / "shots.mp4").scores
    with Store.open(tmp_path / "one" / "index") as store:
        counts = count_moments(store)
        assert counts.videos == 3
        assert counts.seconds == pytest.approx(store.info().seconds)
        assert counts.num_bytes == sum(path.stat().st_size for path in list_moments(engine))
        assert counts.bytes_per_hour == pytest.approx(3600 * counts.num_bytes / counts.seconds)
    with open_index(tmp_path / "two", "none", **TOWERS[tower]) as engine:
        engine.index([films], shots=shots)
        assert list_moments(engine) == []
        np.testing.assert_allclose(engine.curve("a dog", films / "shots.mp4").scores, vectors, atol=2e-3)
    with open_index(tmp_path / "two", head, **TOWERS[tower]) as engine:
        engine.prepare_moments()
        assert "3 of 3 videos were indexed without this head: they take one more pass" in caplog.text
        assert layer_passes
        check_equal(one, read_moments(engine))


@pytest.mark.parametrize(("tower", "fps"), [("plain", 1.0), ("merging", 0.5), ("merging", 1.0), ("prompts", 0.5)])
def test_training_reads_what_an_index_stores(films: Path, tmp_path: Path, tower: str, fps: float) -> None:
    encoder = make_encoder(**TOWERS[tower])
    path = write_head(tmp_path / "head.safetensors", fps=fps)
    with open_index(tmp_path, path, **TOWERS[tower]) as engine:
        engine.index([films])
        stored = read_moments(engine)
    cache = LayersCache(tmp_path / "cache", encoder, num_layers=NUM_LAYERS, fps=fps)
    spans = [VideoSpan(str(film)) for film in sorted(films.iterdir())]
    cache.build(encoder, spans, [], num_workers=0)
    module, _ = load_head(path)
    for span in spans:
        video = cache.read_video(cache.entries.find(span)[0])
        ((window, projected),) = stored[f"{fingerprint(span.path)}.zip"]
        assert window == (0, len(video.layers[0]))
        layers = [torch.from_numpy(layer.astype(np.float32))[None] for layer in video.layers]
        masks = None if video.masks is None else [torch.tensor(mask)[None] for mask in video.masks]
        sizes = None if video.sizes is None else [torch.tensor(sizes)[None] for sizes in video.sizes]
        with torch.no_grad():
            trained = module.prepare(layers, token_masks=masks, sizes=sizes)
        for layer in range(NUM_LAYERS):
            bias = projected.biases[layer]
            real = torch.ones(projected.layers[layer].shape[:3], dtype=torch.bool) if bias is None else ~bias.isneginf()
            one, two = projected.tokens(layer)[real], trained.tokens(layer)[:, :, : real.shape[2]][real]
            torch.testing.assert_close(one, two, rtol=0, atol=0.02 * float(two.abs().max()))


class KilledError(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("when", ["recorded", "committed", "joined"])
def test_killed_run_goes_on_without_another_pass(
    films: Path, head: Path, tmp_path: Path, layer_passes: list[int], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    with open_index(tmp_path / "whole", head) as engine:
        engine.index([films / "shots.mp4"])
        expected = read_moments(engine)
    calls = [0]

    def kill_after(number: int) -> None:
        calls[0] += 1
        if calls[0] == number:
            raise KilledError

    add, finish = RunState.add, Grounder.finish

    def add_or_die(self: RunState, job: FileJob, segment: NewSegment) -> None:
        if when == "recorded":
            kill_after(2)
        add(self, job, segment)
        if when == "committed":
            kill_after(2)

    def finish_and_die(self: Grounder, *args: Any, **kwargs: Any) -> None:
        finish(self, *args, **kwargs)
        kill_after(1)

    with monkeypatch.context() as patch:
        if when == "joined":
            patch.setattr(Grounder, "finish", finish_and_die)
        else:
            patch.setattr(RunState, "add", add_or_die)
        with open_index(tmp_path / "killed", head) as engine, pytest.raises(KilledError):
            engine.index([films / "shots.mp4"])
    assert calls[0]
    with open_index(tmp_path / "killed", "auto") as engine:
        assert engine.info().complete_videos == 0
    with open_index(tmp_path / "killed", head) as engine:
        assert engine.index([films / "shots.mp4"]).encoded == 1
        check_equal(expected, read_moments(engine))
        assert layer_passes == []


def test_video_that_was_begun_without_the_head_takes_another_pass(
    films: Path, head: Path, tmp_path: Path, layer_passes: list[int], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    add, calls = RunState.add, [0]

    def add_once(self: RunState, job: FileJob, segment: NewSegment) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise KilledError
        add(self, job, segment)

    with monkeypatch.context() as patch:
        patch.setattr(RunState, "add", add_once)
        with open_index(tmp_path, "none") as engine, pytest.raises(KilledError):
            engine.index([films / "shots.mp4"])
    with open_index(tmp_path, head) as engine:
        engine.index([films / "shots.mp4"])
        assert "moments take another pass: 1 of 4 segments were indexed without the head" in caplog.text
        assert list_moments(engine) == [], "no piece stays"
        engine.prepare_moments()
        assert layer_passes
        assert len(list_moments(engine)) == 1


def test_damaged_piece_costs_another_pass(
    films: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    finish = Grounder.finish

    def damage_and_finish(self: Grounder, path: str, content: str, *args: Any, **kwargs: Any) -> None:
        piece = next(self.files.locate_pieces(content).iterdir())
        damage(piece, piece.stat().st_size // 2)
        finish(self, path, content, *args, **kwargs)

    monkeypatch.setattr(Grounder, "finish", damage_and_finish)
    with open_index(tmp_path, head) as engine:
        engine.index([films / "long.mp4"])
        assert "long.mp4: moments take another pass: " in caplog.text
        assert engine.locate("a dog", 3, weak=True)


def test_moved_films_keep_their_moments_and_pruned_ones_lose_them(
    films: Path, head: Path, tmp_path: Path, layer_passes: list[int]
) -> None:
    shutil.copytree(films, tmp_path / "films")
    with open_index(tmp_path, head) as engine:
        engine.index([tmp_path / "films"])
        before = list_moments(engine)
        (tmp_path / "films" / "long.mp4").rename(tmp_path / "films" / "moved.mp4")
        engine.index([tmp_path / "films"])
        assert engine.locate("a dog", 3, video=tmp_path / "films" / "moved.mp4", weak=True)
        assert list_moments(engine) == before
        (tmp_path / "films" / "short.mp4").unlink()
        left_over = engine.path / MOMENTS / before[0].parent.parent.name / "pieces" / "0-gone"
        left_over.mkdir(parents=True)
        (left_over / "0.zip").write_bytes(b"of a killed run")
        engine.index([tmp_path / "films"], prune=True)
        assert len(list_moments(engine)) == 2
    assert layer_passes == []
