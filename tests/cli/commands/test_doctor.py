"""Tests of ``vidret doctor``."""

import json
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.fake_faces import ColouredFaces
from tests.fake_voices import PitchVoices
from tests.forking import run_code
from vidret.channels.people import reading
from vidret.channels.voices.encoder import load_voice_encoder
from vidret.cli.commands import doctor
from vidret.cli.commands.doctor import check_package


def test_a_working_machine_passes(run: Runner, tmp_path: Path) -> None:
    checks = {check["name"]: check for check in run.json("doctor", "--index", tmp_path / "none")}
    assert "broken" not in {check["state"] for check in checks.values()}
    for name in ("torch (models)", "av (decoding)", "device", "starter encoder", "disk"):
        assert checks[name]["state"] == "ok", checks[name]
    assert checks["index"]["detail"] == f"none at {tmp_path / 'none'}"


def test_what_takes_seconds_to_load_is_only_looked_up(tmp_path: Path) -> None:
    program = (
        "import json, sys; from pathlib import Path; from vidret.cli.commands.doctor import run_checks\n"
        "rows = [(check.name, check.detail) for check in run_checks(Path(sys.argv[1]))]\n"
        "print(json.dumps([rows, list(sys.modules)]))"
    )
    rows, modules = json.loads(run_code(program, tmp_path / "none").stdout)
    assert {"open_clip", "transformers", "sentence_transformers", "pytorch_lightning", "timm"}.isdisjoint(modules)
    assert {"torch", "faiss", "ctranslate2"} <= set(modules)
    assert dict(rows)["open_clip (CLIP models)"].endswith(", not loaded")


def test_faces_and_voices_are_read_or_extras_named(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("doctor", "--index", tmp_path / "none")
    for finder in ("identities.find_spec", "voices.encoder.find_package"):
        monkeypatch.setattr(f"vidret.channels.{finder}", lambda _name: None)
    reading.load_face_model.cache_clear()
    load_voice_encoder.cache_clear()
    out = run.out(*command)
    assert "vidret[people]" in out
    assert 'needs the extra "speakers"' in out
    monkeypatch.setattr(reading, "load_face_model", lambda: ColouredFaces())
    monkeypatch.setattr("vidret.channels.voices.encoder.load_voice_encoder", lambda _name: PitchVoices())
    out = run.out(*command)
    assert "works, 3 dimensions (coloured faces 1)" in out
    assert "works, 4 dimensions (pitch 1)" in out


def test_what_is_broken_ends_with_a_code(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "catalog.sqlite").write_bytes(b"no database" * 100)
    monkeypatch.setattr(doctor, "LITTLE_SPACE", 1 << 80)
    code, out, _ = run("doctor", "--index", tmp_path)
    assert code == 1
    assert "broken   index" in out
    assert "GB are free" in out


def test_absent_packages_and_those_that_do_not_load_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unloadable.py").write_text("raise OSError('libcuda.so:\\n no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    optional, required = check_package("absent", "speech", "words"), check_package("absent", "models", None)
    assert (optional.state, required.state) == ("missing", "broken")
    assert 'pip install "vidret[words]"' in optional.detail
    unloadable = check_package("unloadable", "speech", "words")
    assert (unloadable.state, unloadable.detail) == ("broken", "cannot be imported: libcuda.so: no such file")
