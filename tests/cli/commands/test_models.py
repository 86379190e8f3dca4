"""Tests of ``vidret models``."""

import importlib.util
from pathlib import Path

import huggingface_hub
import pytest

from tests.cli.runner import Runner
from tests.fakes import ColourEncoder
from vidret.encode.families.registry import load_encoder
from vidret.encode.model_list import PUBLISHED
from vidret.encode.names import RECOMMENDED
from vidret.errors import EncoderError


def test_the_table_and_the_json_tell_what_is_known(run: Runner) -> None:
    out = run.out("models")
    lines = out.splitlines()
    assert lines[0].split()[:4] == ["model", "here", "dims", "tokens"]
    assert lines[1].split()[:5] == ["starter", "installed", "400", "128", "English"]
    assert "51.2 (authors of PE-Core)" in next(line for line in lines if line.startswith("PE-Core-bigG-14-448/meta"))
    assert "R@1, as published: zero-shot, text to video" in out
    assert "Recommended, by short names (no result was measured by vidret; frames a second on one core):" in out
    entries = {entry["name"]: entry for entry in run.json("models")}
    base = entries["ViT-B-32/laion2b_s34b_b79k"]
    assert (base["dim"], base["tokens"], base["published"]) == (512, 77, None)
    assert base["state"] in ("cached", "needs download")
    assert entries["PE-Core-B-16/meta"]["published"]["recall_at_1"] == 47.6
    for short, model in RECOMMENDED.items():
        assert f"  --model {short.ljust(12)}  {model.model}: {model.purpose}; {model.device}" in out
        assert (entries[model.model]["short_name"], entries[model.model]["licence"]) == (short, model.licence)
    assert len(run.json("models", "--all")) > 2 * len(entries)


def test_cached_models_of_transformers_are_found(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name, text in (
        ("a-clip", '{"model_type": "chinese_clip"}'),
        ("a-bert", '{"model_type": "bert"}'),
        ("torn", "{"),
    ):
        folder = tmp_path / f"models--org--{name}" / "snapshots/0123"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(text)
    entries = {entry["name"]: entry for entry in run.json("models")}
    assert (entries["hf:org/a-clip"]["state"], entries["hf:org/a-clip"]["tokens"]) == ("cached", 52)
    assert not {"hf:org/a-bert", "hf:org/torn"} & entries.keys()


def test_missing_extras_are_named(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    rows = {line.split("  ")[0]: line for line in run.out("models").splitlines() if line}
    assert "needs extra starter" in rows["starter"]
    assert "needs download, needs extra hf" in rows["ViT-B-16-SigLIP2-256/webli"]


def test_short_names_load_what_they_stand_for() -> None:
    for name, rule in (
        ("good#whole", r"PE-Core-B-16/meta: its files are not on this machine and HF_HUB_OFFLINE"),
        ("multilingal", r"did you mean multilingual\?"),
    ):
        with pytest.raises(EncoderError, match=rule):
            load_encoder(name, device="cpu")


def test_the_documentation_names_the_recommended_models() -> None:
    rows = (Path(__file__).parents[3] / "docs/models.md").read_text("utf-8").splitlines()
    for short, model in RECOMMENDED.items():
        row = next(row for row in rows if row.startswith(f"| `{short}` | `{model.model}`"))
        assert f" {model.size_bytes / 1e9:.1f} GB | {model.licence} |" in row
        published = PUBLISHED.get(model.model)
        assert published is None or f"R@1 {published.recall_at_1}" in row


def test_speed_is_measured_and_says_where_weights_are_random(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("models", "starter")[0] == 2
    loaded: list[str] = []

    def load(name: str) -> ColourEncoder:
        loaded.append(name)
        if name == "small":
            raise EncoderError("small: its files are not on this machine")
        return ColourEncoder()

    monkeypatch.setattr("vidret.encode.families.registry.load_encoder", load)
    rows = run.json("models", "starter", "small", "--measure")
    assert [(row["model"], row["weights"]) for row in rows] == [("starter", "its own"), ("small", "random")]
    assert loaded == ["starter", "small", "ViT-B-32/random#merge=gentle"]
    code, out, err = run("models", "small", "--measure")
    assert (code, out.splitlines()[0].split()[:2]) == (0, ["model", "device"])
    assert "measured with random weights" in err
