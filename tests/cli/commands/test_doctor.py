"""Tests of ``vidret doctor``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.fake_faces import ColouredFaces
from tests.fake_voices import PitchVoices
from vidret.channels.voices.encoder import load_voice_encoder
from vidret.cli.commands import doctor
from vidret.cli.commands.doctor import check_package


def test_a_working_machine_passes(run: Runner, tmp_path: Path) -> None:
    code, out, _ = run("doctor", "--index", tmp_path / "none", "--json")
    checks = {check["name"]: check for check in json.loads(out)}
    assert code == 0
    assert "broken" not in {check["state"] for check in checks.values()}
    for name in ("torch (models)", "av (decoding)", "device", "starter encoder", "disk"):
        assert checks[name]["state"] == "ok", checks[name]
    assert checks["index"]["detail"] == f"none at {tmp_path / 'none'}"


def test_what_takes_seconds_to_load_is_only_looked_up(tmp_path: Path) -> None:
    program = (
        "import json, sys; from pathlib import Path; from vidret.cli.commands.doctor import run_checks\n"
        "rows = [(each.name, each.detail) for each in run_checks(Path(sys.argv[1]))]\n"
        "print(json.dumps([rows, list(sys.modules)]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "none")]
    rows, modules = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert {"open_clip", "transformers", "sentence_transformers", "pytorch_lightning", "timm"}.isdisjoint(modules)
    assert {"torch", "faiss", "ctranslate2"} <= set(modules)
    assert dict(rows)["open_clip (CLIP models)"].endswith(", not loaded")


def test_faces_are_read_or_the_extra_is_named(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vidret.channels.people import models

    monkeypatch.setattr(models, "load_face_model", lambda: ColouredFaces())
    assert "works, 3 dimensions (coloured faces 1)" in run("doctor", "--index", tmp_path / "none")[1]
    monkeypatch.undo()
    monkeypatch.setattr("vidret.channels.identities.kinds.find_spec", lambda _name: None)
    models.load_face_model.cache_clear()
    assert "vidret[people]" in run("doctor", "--index", tmp_path / "none")[1]


def test_voices_are_read_or_the_extra_is_named(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.channels.voices.encoder.find_spec", lambda _name: None)
    load_voice_encoder.cache_clear()
    assert 'needs the extra "speakers"' in run("doctor", "--index", tmp_path / "none")[1]
    monkeypatch.setattr("vidret.channels.voices.encoder.load_voice_encoder", lambda _name: PitchVoices())
    assert "works, 4 dimensions (pitch 1)" in run("doctor", "--index", tmp_path / "none")[1]


def test_an_index_that_cannot_be_read_is_broken(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "catalog.sqlite").write_bytes(b"no database" * 100)
    code, out, _ = run("doctor", "--index", tmp_path)
    assert code == 1
    assert "broken   index" in out


def test_packages_that_are_absent_and_packages_that_do_not_load_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unloadable.py").write_text("raise OSError('libcuda.so:\\n no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    optional, required = check_package("absent", "speech", "words"), check_package("absent", "models", None)
    assert (optional.state, required.state) == ("missing", "broken")
    assert 'pip install "vidret[words]"' in optional.detail
    unloadable = check_package("unloadable", "speech", "words")
    assert (unloadable.state, unloadable.detail) == ("broken", "cannot be imported: libcuda.so: no such file")


def test_a_full_disk_is_broken(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LITTLE_SPACE", 1 << 80)
    code, out, _ = run("doctor", "--index", tmp_path / "none")
    assert code == 1
    assert "GB are free" in out
