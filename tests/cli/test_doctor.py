"""Tests of ``vidret doctor``."""

import json
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from vidret.cli import doctor
from vidret.cli.doctor import check_package


def test_a_working_machine_passes(run: Runner, tmp_path: Path) -> None:
    code, out, _ = run("doctor", "--index", tmp_path / "none", "--json")
    checks = {check["name"]: check for check in json.loads(out)}
    assert code == 0
    assert "broken" not in {check["state"] for check in checks.values()}
    for name in ("torch (models)", "av (decoding)", "device", "starter encoder", "disk"):
        assert checks[name]["state"] == "ok", checks[name]
    assert checks["index"]["detail"] == f"none at {tmp_path / 'none'}"


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
