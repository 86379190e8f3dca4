"""Tests of vidret people and vidret speakers."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import Runner
from tests.made_identities import FACES, VOICES, make_track, make_tracks, make_voice
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import FILE, IdentityStore
from vidret.store.store import Store


@pytest.fixture
def people(index: Path) -> Path:
    """Return an index in which two people are seen, and one of them is heard."""
    with Store.open(index) as store:
        first, second = sorted(store.videos.fingerprints().values())
    jpeg = BytesIO()
    Image.fromarray(np.full((40, 30, 3), (200, 30, 90), np.uint8)).save(jpeg, "JPEG")
    with IdentityStore.create(index) as identities:
        faces = make_tracks([0, 1, 0], length_s=1.0)
        identities.write_tracks(first, FACES, [*faces[:2], make_track(0, 0.2, 0.9), *faces[2:]])
        identities.write_tracks(second, FACES, make_tracks([1], length_s=1.0))
        identities.write_tracks(second, VOICES, [make_voice(0, 0, 1), make_voice(0, 1, 2)])
        identities.database.run("UPDATE tracks SET thumbnail = ? WHERE thumbnail IS NOT NULL", jpeg.getvalue())
        from vidret.store.identities.store import CHECKSUM

        identities.database.run(f"UPDATE tracks SET checksum = {CHECKSUM}")
    Persons(index).group()
    return index


def list_people(run: Runner, index: Path, *options: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(run("people", "--index", index, "--json", *options)[1])
    return rows


def test_people_are_listed_and_named(run: Runner, people: Path, tmp_path: Path) -> None:
    code, out, _ = run("people", "--index", people, "--sheet", tmp_path / "people.jpg")
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()[-2:]] == [["1", "2", "1"], ["2", "2", "2"]]
    with Image.open(tmp_path / "people.jpg") as sheet:
        reds = np.asarray(sheet.convert("RGB"))[..., 0].astype(int) - np.asarray(sheet.convert("RGB"))[..., 1]
        assert (reds > 120).sum() > 1000
    assert run("people", "name", "2", "Mum", "--index", people)[0] == 0
    assert [(row["id"], row["name"], row["handle"]) for row in list_people(run, people)] == [
        (2, "Mum", "mum"),
        (1, "", "person-1"),
    ]
    assert run("people", "name", "1", "mum", "--index", people)[0] == 1
    assert json.loads(run("speakers", "--index", people, "--json")[1])[0]["tracks"] == 2


def test_tracks_are_shown_split_rejected_and_undone(run: Runner, people: Path, tmp_path: Path) -> None:
    run("people", "name", "2", "mum", "--index", people)
    code, out, _ = run("people", "show", "mum", "--index", people, "--sheet", tmp_path / "mum.png")
    assert code == 0
    assert (tmp_path / "mum.png").is_file()
    assert len(out.splitlines()) == 3
    tracks = json.loads(run("people", "show", "mum", "--index", people, "--json")[1])
    assert all(Path(track["path"]).is_file() for track in tracks)
    code, out, _ = run("people", "split", "mum", str(tracks[0]["id"]), "--index", people)
    assert (code, out) == (0, "4\n")
    assert run("people", "merge", "mum", "4", "--index", people)[0] == 0
    assert run("people", "not", "mum", str(tracks[0]["id"]), "--index", people)[0] == 0
    assert len(json.loads(run("people", "show", "mum", "--index", people, "--json")[1])) == 1
    for message in ("undone", "undone", "undone", "undone", "nothing to undo"):
        assert message in run("people", "undo", "--index", people)[2]
    assert [row["name"] for row in list_people(run, people)] == ["", ""]


def test_hiding_and_exporting(run: Runner, people: Path) -> None:
    assert run("people", "hide", "1", "--index", people)[0] == 0
    assert [row["id"] for row in list_people(run, people)] == [2]
    assert [row["id"] for row in list_people(run, people, "--hidden")] == [1, 2]
    assert "(hidden)" in run("people", "--hidden", "--index", people)[1]
    assert run("people", "hide", "1", "--show", "--index", people)[0] == 0
    assert len(list_people(run, people)) == 2
    exported = json.loads(run("people", "export", "1", "--index", people)[1])
    assert [track["kind"] for track in exported["tracks"]] == ["face", "face"]


def test_forgetting(run: Runner, people: Path) -> None:
    assert "2 tracks" in run("people", "forget", "1", "--index", people)[2]
    assert [row["id"] for row in list_people(run, people)] == [2]
    path = json.loads(run("people", "show", "2", "--index", people, "--json")[1])[0]["path"]
    assert "1 tracks" in run("people", "forget", "--video", path, "--index", people)[2]
    assert run("people", "forget", "--all", "--index", people)[0] == 0
    assert (people / FILE).exists()
    assert run("speakers", "forget", "--all", "--index", people)[0] == 0
    assert not (people / FILE).exists()
    assert list_people(run, people) == []
    assert run("people", "forget", "--index", people)[0] == 2


def test_options_follow_the_command(run: Runner, people: Path) -> None:
    code, _, err = run("people", "--index", people, "name", "1", "mum")
    assert code == 2
    assert "must follow name" in " ".join(err.split())


def test_an_index_without_people_says_so(run: Runner, index: Path) -> None:
    assert "No people were found" in run("people", "--index", index)[2]
    assert run("people", "name", "1", "mum", "--index", index)[0] == 1
    assert run("people", "--index", index / "none")[0] == 1
    assert not (index / FILE).exists()
