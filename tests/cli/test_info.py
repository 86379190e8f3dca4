"""Tests of vidret info."""

import json
from pathlib import Path

from tests.cli.runner import Runner
from vidret.store.store import Store


def test_info_in_text_and_json(run: Runner, index: Path) -> None:
    assert "2 done, 1 failed" in " ".join(run("info", "--index", index)[1].split())
    assert json.loads(run("info", "--index", index, "--json")[1])["videos"] == 2
    assert "bad.mp4" in run("info", "--index", index, "--failed")[1]
    failed = json.loads(run("info", "--index", index, "--failed", "--json")[1])
    assert [Path(row["path"]).name for row in failed] == ["bad.mp4"]


def test_damaged_features_are_found_and_repaired(run: Runner, index: Path, films: Path) -> None:
    assert run("info", "--index", index, "--check")[0] == 0
    features = index / "features" / "frames.f16"
    damaged = bytearray(features.read_bytes())
    damaged[3] ^= 0x40
    features.write_bytes(damaged)
    code, out, _ = run("info", "--index", index, "--check")
    assert code == 1
    assert len(out.splitlines()) == 1
    assert run("info", "--index", index, "--repair")[0] == 0
    run("index", films, "--index", index)
    assert run("info", "--index", index, "--check")[0] == 0


def test_damaged_catalog_is_found_and_repaired(run: Runner, index: Path, films: Path) -> None:
    with Store.open(index, write=True) as store:
        store._catalog.run("UPDATE videos SET facts = '{' WHERE id = 1")
    for command in (("info", "--check"), ("index", films)):
        code, _, err = run(*command, "--index", index)
        assert code == 1
        assert "catalog.sqlite: the row of " in err
        assert "is damaged (checksum); run vidret info --repair" in err
    code, out, err = run("info", "--index", index, "--repair")
    assert (code, out) == (0, "catalog: the row of 1 in videos is damaged (checksum)\n")
    assert "run vidret index again over the same videos" in err
    assert "1 encoded" in run("index", films, "--index", index)[2]
    assert run("info", "--index", index, "--check")[0] == 0
    assert len(json.loads(run("search", "red", "--index", index, "--json")[1])) == 2


def test_damaged_vectors_are_found_and_dropped(run: Runner, index: Path) -> None:
    (file,) = (index / "vectors").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    code, out, _ = run("info", "--index", index, "--check")
    assert code == 1
    assert out.startswith(f"{file}: size must be ")
    _, _, err = run("info", "--index", index, "--repair")
    assert "1 damaged vector files, dropped and to be rebuilt" in err
    assert run("info", "--index", index, "--check")[0] == 0
    assert run("search", "red", "--index", index)[0] == 0
