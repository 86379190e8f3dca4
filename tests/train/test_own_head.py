"""Heads trained on the vectors of an index learn what annotations mean, and replace the curve only if they win."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.runner import Runner
from tests.fakes import ColourEncoder, write_film
from vidret.data.benchmarks.splits import read_split
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.ground.checkpoint import VECTORS, read_head_card
from vidret.store.records import HEAD
from vidret.store.store import Store
from vidret.train.own_head import divide, match_videos, try_head

NUM_FILMS, LEAD_S = 10, 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Index films, and annotate what comes before a colour: the curve cannot know that, and a head can learn it."""
    folder, rng, rows = tmp_path_factory.mktemp("made"), np.random.default_rng(0), []
    for film in range(NUM_FILMS):
        start, length, rest = (int(rng.integers(low, high)) for low, high in ((6, 14), (4, 8), (4, 10)))
        scenes = ("black", start), ("red", length), ("white", rest)
        write_film(folder / "films" / f"film{film}.mp4", *scenes, salt=film)
        duration, window = start + length + rest, [start - LEAD_S, start]
        rows.append(
            {"qid": film, "query": "red", "vid": f"film{film}", "duration": duration, "relevant_windows": [window]}
        )
    rows.append({"qid": 99, "query": "red", "vid": "elsewhere", "duration": 9, "relevant_windows": [[1, 3]]})
    (folder / "moments.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with Engine(folder / "index", ColourEncoder()) as engine:
        engine.index([folder / "films"])
    return folder


@pytest.fixture(autouse=True)
def _colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.engine.load_encoder", lambda *_, **__: ColourEncoder())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capsys)


def test_head_that_wins_is_written_and_used(made: Path, run: Runner) -> None:
    command = ("train", "head", "--index", made / "index", "--moments", made / "moments.jsonl", "--steps", 60)
    code, out, err = run(*command, "--held-out", 0.3)
    assert code == 0, err
    assert "1 of 11 annotated videos are not in the index" in err
    assert "Trained on 7 queries, tried on 3 of other videos" in err
    table = [line.split() for line in out.splitlines()]
    assert table[0] == ["R1@0.5", "R1@0.7", "mIoU"]
    curve, head, weighed = (float(row[-1]) for row in table[1:])
    assert head > curve + 30
    assert weighed <= head, "what comes before a colour does not resemble it"
    path = made / "index" / "head.safetensors"
    card = read_head_card(path)
    assert (card.reads, card.backbone, card.fps, card.num_layers) == (VECTORS, "colours", 1.0, 1)
    assert card.similarity_weight == 0
    with Engine(made / "index", ColourEncoder()) as engine:
        assert {moment.by for moment in engine.locate("red", 3, video=made / "films" / "film0.mp4")} == {"head"}
        assert {moment.by for moment in engine.locate("red", 3)} == {"head"}
        assert engine.rate("red", made / "films" / "film0.mp4", np.array([0.5, 3.0])).shape == (2,)
        engine.prepare_moments()
        encoder = engine.encoder
        assert isinstance(encoder, ColourEncoder)
        assert encoder.num_frames == 0, "nothing is decoded or encoded"
    with Engine(made / "index", ColourEncoder(), head="none") as engine:
        assert {moment.by for moment in engine.locate("red", 3)} == {"curve"}
    other = ColourEncoder()
    other.name = "others"
    with pytest.raises(VidretError, match="must read vectors of colours, got an index of others"):
        Engine(made / "another", other, head=path)


def test_head_that_does_not_win_is_not_kept(made: Path, run: Runner, tmp_path: Path) -> None:
    out_path = tmp_path / "head.safetensors"
    with Store.open(made / "index", write=True) as store:
        before = store.metadata.get(HEAD)
    rows = [json.loads(line) for line in (made / "moments.jsonl").read_text().splitlines()[:NUM_FILMS]]
    with Engine(made / "index", ColourEncoder(), head="none") as engine:
        for row in rows:
            found = engine.locate("red", 1, video=f"{row['vid']}.mp4", overlapping=True, weak=True)[0]
            row["relevant_windows"] = [[found.start, found.end]]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ("train", "head", "--index", made / "index", "--moments", tmp_path / "own.jsonl", "--steps", 1)
    code, out, err = run(*command, "--out", out_path)
    assert code == 1
    assert "The head does not win against the curve on the held-out queries (mIoU), so it is not kept." in err
    assert len(out.splitlines()) == 4
    assert not out_path.exists()
    split = read_split("moments", tmp_path / "own.jsonl")
    with Engine(made / "index", ColourEncoder(), head="none") as engine:
        trial = try_head(engine, split, num_steps=1)
    assert trial.by_weighed.mean_overlap > trial.by_head.mean_overlap
    assert trial.card.similarity_weight == 1
    with Store.open(made / "index") as store:
        assert store.metadata.get(HEAD) == before


def test_training_is_reproducible_and_videos_are_divided(made: Path) -> None:
    split = read_split("moments", made / "moments.jsonl")
    with Engine(made / "index", ColourEncoder(), head="none") as engine:
        ids = match_videos(engine, split)
        assert len(ids) == NUM_FILMS
        train, held_out = divide(split, set(ids), 0.2, 1)
        assert not {query.video for query in train.queries} & {query.video for query in held_out.queries}
        first, second = (try_head(engine, split, num_steps=3, seed=1) for _ in range(2))
        for name, weight in first.head.state_dict().items():
            assert bool((weight == second.head.state_dict()[name]).all())
        assert first.by_head.to_dict() == second.by_head.to_dict()


def test_annotations_of_other_videos_are_refused(made: Path, tmp_path: Path) -> None:
    row = {"qid": 1, "query": "red", "vid": "elsewhere", "duration": 9, "relevant_windows": [[1, 3]]}
    (tmp_path / "moments.jsonl").write_text(json.dumps(row))
    with Engine(made / "index", ColourEncoder(), head="none") as engine:
        with pytest.raises(VidretError, match="its videos must be in the index, got none of 1"):
            try_head(engine, read_split("moments", tmp_path / "moments.jsonl"))
        (tmp_path / "moments.jsonl").write_text(json.dumps({**row, "vid": "film0"}))
        with pytest.raises(VidretError, match="must have moments in at least 2 videos of the index, got 1"):
            try_head(engine, read_split("moments", tmp_path / "moments.jsonl"))


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (("--moments", "nowhere.jsonl"), 1, "there is no such file"),
        (("--held-out", 1.5), 1, "the held-out share must be between 0 and 1, got 1.5"),
        (("--seed", -1), 2, "--seed"),
    ],
)
def test_wrong_options_are_refused(
    options: tuple[str, object], code: int, reason: str, made: Path, run: Runner
) -> None:
    command = ("train", "head", "--index", made / "index", "--moments", made / "moments.jsonl", *options)
    run.check_refusal(command, code, reason)
