"""Consent: an index uses what is not part of it only after its user has named it, for that index alone."""

import os
from pathlib import Path

import pytest

from vidret.errors import StoreError
from vidret.store.consent import allow, check_allowed, is_allowed
from vidret.store.vectors.registry import allow_address


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("VIDRET_ALLOW", raising=False)
    return tmp_path / "state"


def test_an_index_may_use_what_was_named_for_it_and_nothing_else(tmp_path: Path) -> None:
    index, other = tmp_path / "index", tmp_path / "other"
    allow(index, "package.module:Class")
    assert is_allowed(index, "package.module:Class")
    assert not is_allowed(index, "package.module:Klass")
    assert not is_allowed(other, "package.module:Class")
    check_allowed(index, "package.module:Class", option="--model")
    with pytest.raises(StoreError, match=r"other: names package.module:Class, .* by --model package.module:Class"):
        check_allowed(other, "package.module:Class", option="--model")


def test_consent_belongs_to_the_folder_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "link").symlink_to("index")
    monkeypatch.chdir(tmp_path)
    allow("index", "a:B")
    assert is_allowed(tmp_path / "index", "a:B")
    assert is_allowed(tmp_path / "link", "a:B")


def test_the_environment_allows_names_for_every_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDRET_ALLOW", "a:B hf-hub:org/name")
    assert is_allowed(tmp_path, "hf-hub:org/name")
    assert not is_allowed(tmp_path, "hf-hub:org")


def test_what_cannot_be_remembered_must_be_named_again(tmp_path: Path, own_state: Path) -> None:
    own_state.write_text("a file where the folder should be")
    allow(tmp_path, "a:B")
    assert not is_allowed(tmp_path, "a:B")


def test_names_of_any_bytes_are_remembered_and_shown_clean(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\x1b[31m")
    with pytest.raises(StoreError) as raised:
        check_allowed(tmp_path, name, option="--model")
    assert "\x1b" not in str(raised.value)
    allow(tmp_path, name)
    assert is_allowed(tmp_path, name)


def test_addresses_are_compared_in_their_normal_form(tmp_path: Path) -> None:
    allow_address(tmp_path, "milvus://localhost:19530")
    assert is_allowed(tmp_path, "milvus://http://localhost:19530")
    allow_address(tmp_path, "faiss")
    assert not is_allowed(tmp_path, "faiss"), "it needs none"
