"""Token merging and prompts in one tower: against loops over single tokens, and padding."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.encode.clip.merging import naive_match, naive_merge
from tests.encode.tiny import MERGING, VISION, make_images, stir
from tests.goldens import check_close
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.vision import VisionTower
from vidret.layers import Block

SHORT = MergeSchedule(layers=(1, 3), factors=(2, 3), r=2, cross=0.4, intra=0.2)


@dataclass
class Sequence:
    """The tokens of some frames: a class token per frame, patches with sizes, and the prompts of each frame."""

    frames: list[int]
    classes: list[Tensor]
    patches: list[Tensor]
    sizes: list[float]
    prompts: dict[tuple[int, int], Tensor]

    def rows(self) -> Tensor:
        return torch.stack([*self.classes, *self.patches, *self.prompts.values()])

    def bias(self) -> Tensor:
        counts = [1.0] * len(self.classes) + self.sizes + [1.0] * len(self.prompts)
        return torch.tensor(counts).log()[None, None, None]

    def fill(self, rows: Tensor) -> None:
        parts = list(rows)
        num, stop = len(self.classes), len(self.classes) + len(self.patches)
        self.classes, self.patches = parts[:num], parts[num:stop]
        self.prompts = dict(zip(self.prompts, parts[stop:], strict=True))


def merge(sequence: Sequence, metric: list[Tensor], num_merged: int) -> None:
    """Merge the patches at even positions that are most similar to one at an odd position into it."""
    front, tokens = len(sequence.classes), torch.stack(sequence.classes + sequence.patches)
    into = naive_match([*tokens[:front], *metric], num_merged, front, 0)
    rows, sizes = naive_merge(tokens, torch.tensor([1.0] * front + sequence.sizes), into, front, 0)
    sequence.patches, sequence.sizes = list(rows[front:]), sizes[front:].tolist()


def join(group: list[Sequence], table: Tensor, first: int, cross: float) -> Sequence:
    """Join sequences, add the temporal position of each to all of its tokens, and merge across them."""
    metric = [patch for member in group for patch in member.patches]
    for offset, sequence in enumerate(group):
        sequence.fill(sequence.rows() + table[first + offset])
    joined = Sequence([], [], [], [], {})
    for sequence in group:
        joined.frames += sequence.frames
        joined.classes += sequence.classes
        joined.patches += sequence.patches
        joined.sizes += sequence.sizes
        joined.prompts |= sequence.prompts
    num_own = len(joined.classes) + len(joined.patches)
    merge(joined, metric, min(len(metric) // 2, int(num_own * cross)))
    return joined


def exchange(normed: list[dict[tuple[int, int], Tensor]], num_prompts: int) -> list[dict[tuple[int, int], Tensor]]:
    """Give slot s of the i-th frame of a chunk what slot i of its s-th frame holds; chunks span the video."""
    everything = {key: row for prompts in normed for key, row in prompts.items()}
    distance = len({frame for frame, _ in everything}) // num_prompts
    moved = {
        (frame, slot): everything[slot * distance + frame % distance, frame // distance] for frame, slot in everything
    }
    return [{key: moved[key] for key in prompts} for prompts in normed]


def encode(tower: VisionTower, images: Tensor) -> tuple[Tensor, list[Sequence]]:
    """Encode one video token by token."""
    schedule, cube = tower.merging, tower.prompts
    assert schedule is not None
    assert cube is not None
    num_frames, num = len(images), cube.shape.num_prompts
    distance, sequences = num_frames // num, []
    for frame, image in enumerate(images):
        patches = tower.patches(image[None])[0].flatten(1).T
        rows = tower.ln_pre(torch.cat([tower.class_embedding[None], patches]) + tower.positions)
        prompts = {(frame, slot): cube.cube[frame // distance, slot] for slot in range(num)}
        sequences.append(Sequence([frame], [rows[0]], list(rows[1:]), [1.0] * len(patches), prompts))
    factors = dict(zip(schedule.layers, schedule.factors, strict=True))
    for layer, block in enumerate(tower.blocks):
        assert isinstance(block, Block)
        if layer in factors:
            k, table = factors[layer], tower.temporal[str(layer)]
            sequences = [join(sequences[i : i + k], table, i, schedule.cross) for i in range(0, len(sequences), k)]
        normed = [block.ln_1(sequence.rows()) for sequence in sequences]
        stops = [len(sequence.classes) + len(sequence.patches) for sequence in sequences]
        prompts_in = [
            dict(zip(sequence.prompts, rows[stop:], strict=True))
            for sequence, rows, stop in zip(sequences, normed, stops, strict=True)
        ]
        if len(sequences) > 1:
            prompts_in = exchange(prompts_in, num)
        for sequence, rows, stop, prompt_rows in zip(sequences, normed, stops, prompts_in, strict=True):
            seen = torch.cat([rows[:stop], torch.stack(list(prompt_rows.values()))])
            update, keys = block.attn(seen[None], bias=sequence.bias())
            sequence.fill(sequence.rows() + update[0])
            metric = list(keys[0].mean(dim=0)[len(sequence.classes) : stop])
            share = schedule.r if layer < schedule.layers[0] else int(stop * schedule.intra)
            merge(sequence, metric, min(len(metric) // 2, share))
            sequence.fill(sequence.rows() + block.mlp(block.ln_2(sequence.rows())))
    classes = torch.stack([row for sequence in sequences for row in sequence.classes])
    memory = torch.stack([row for sequence in sequences for row in sequence.prompts.values()])
    updated = classes + cube.aggregation.cross(classes[None], memory[None])[0]
    return tower.ln_post(updated) @ tower.proj, sequences


def make_tower(merging: MergeSchedule, num_prompts: int, num_frames: int = 12) -> VisionTower:
    torch.manual_seed(0)
    shape = PromptShape(num_prompts, num_prompts, spread=True)
    tower = VisionTower(VISION, merging=merging, prompts=shape, num_frames=num_frames).eval()
    stir(tower)
    return tower


@torch.no_grad()
@pytest.mark.parametrize(
    ("merging", "num_prompts", "num_frames"), [(MERGING, 3, 12), (MERGING, 12, 12), (SHORT, 2, 6), (SHORT, 3, 6)]
)
def test_towers_equal_loops(merging: MergeSchedule, num_prompts: int, num_frames: int) -> None:
    tower, images = make_tower(merging, num_prompts, num_frames), make_images(2 * num_frames)
    actual = tower(images, num_frames=num_frames, tokens=True)
    assert actual.tokens is not None
    assert actual.sizes is not None
    for index in range(2):
        frames, sequences = encode(tower, images[index * num_frames : (index + 1) * num_frames])
        check_close(actual.frames[index], frames, 1e-5)
        patches = torch.stack([patch for sequence in sequences for patch in sequence.patches])
        check_close(actual.tokens[index], tower.ln_post(patches) @ tower.proj, 1e-5)
        assert actual.sizes[index].tolist() == [size for sequence in sequences for size in sequence.sizes]
    check_close(tower(images, num_frames=num_frames).frames, actual.frames, 1e-5)


def test_spread_prompts_need_merging() -> None:
    with pytest.raises(ValueError, match="spread prompts must come with merging, got none"):
        VisionTower(VISION, prompts=PromptShape(2, 2, spread=True))
