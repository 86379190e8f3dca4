"""Tests of vidret people and vidret speakers."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import Runner
from tests.made_identities import FACES, VOICES, make_track, make_tracks, make_voice
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import CHECKSUM, FILE, IdentityStore
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
        identities.database.run(f"UPDATE tracks SET checksum = {CHECKSUM}")
    Persons(index).group()
    return index


@pytest.mark.usefixtures("people")
def test_people_are_listed_and_named(run: Runner, tmp_path: Path) -> None:
    out = run.out("people", "--sheet", tmp_path / "people.jpg")
    assert [line.split()[:3] for line in out.splitlines()[-2:]] == [["1", "2", "1"], ["2", "2", "2"]]
    with Image.open(tmp_path / "people.jpg") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    assert (pixels[..., 0] - pixels[..., 1] > 120).sum() > 1000
    assert run.err("people", "name", "2", "Mum") == "@mum stands for Mum in queries"
    listed = [(row["id"], row["name"], row["handle"]) for row in run.json("people")]
    assert listed == [(2, "Mum", "mum"), (1, "", "person-1")]
    assert run("people", "name", "1", "mum")[0] == 1
    assert run.json("speakers")[0]["tracks"] == 2
    run.check_refusal("people --hidden name 1 mum", 2, "must follow name")


@pytest.mark.usefixtures("people")
def test_tracks_are_shown_split_rejected_and_undone(run: Runner, tmp_path: Path) -> None:
    run.out("people", "name", "2", "mum")
    assert len(run.out("people", "show", "mum", "--sheet", tmp_path / "mum.png").splitlines()) == 3
    assert (tmp_path / "mum.png").is_file()
    tracks = run.json("people", "show", "mum")
    assert all(Path(track["path"]).is_file() for track in tracks)
    assert run.out("people", "split", "mum", tracks[0]["id"]) == "4\n"
    run.out("people", "merge", "mum", "4")
    run.out("people", "not", "mum", tracks[0]["id"])
    assert len(run.json("people", "show", "mum")) == 1
    changes = [f"not mum {tracks[0]['id']}", "merge mum 4", f"split mum {tracks[0]['id']}", "name 2 mum"]
    for message in (*(f"undone: {change}" for change in changes), "there is nothing to undo"):
        assert run.err("people", "undo") == message
    assert [row["name"] for row in run.json("people")] == ["", ""]


@pytest.mark.usefixtures("people")
def test_hiding_and_exporting(run: Runner) -> None:
    run.out("people", "hide", "2")
    run.out("people", "hide", "1")
    assert run.err("people") == "All people are hidden. To list them: vidret people --hidden"
    run.out("people", "hide", "2", "--show")
    assert [row["id"] for row in run.json("people")] == [2]
    assert [row["id"] for row in run.json("people", "--hidden")] == [1, 2]
    assert "(hidden)" in run.out("people", "--hidden")
    run.out("people", "hide", "1", "--show")
    assert len(run.json("people")) == 2
    exported = run.json("people", "show", "1"), run.out("people", "export", "1")
    assert (len(exported[0]), exported[1].count('"kind": "face"')) == (2, 2)


def test_forgetting(run: Runner, people: Path) -> None:
    assert "2 tracks" in run.err("people", "forget", "1")
    assert [row["id"] for row in run.json("people")] == [2]
    assert "1 track deleted" in run.err("people", "forget", "--video", run.json("people", "show", "2")[0]["path"])
    run.out("people", "forget", "--all")
    assert (people / FILE).exists()
    run.out("speakers", "forget", "--all")
    assert not (people / FILE).exists()
    assert run.json("people") == []
    assert run("people", "forget")[0] == 2


def test_an_index_without_people_says_so(run: Runner, index: Path) -> None:
    for group in ("people", "speakers"):
        advice = f"This index was not read for {group}. To look for them: vidret index PATH --{group} on"
        assert run.err(group, "--sheet", index / "people.jpg") == advice
    assert run("people", "name", "1", "mum")[0] == 1
    assert run("people", "--index", index / "none")[0] == 1
    assert not (index / FILE).exists()


def test_an_index_that_was_read_says_what_was_found(run: Runner, index: Path) -> None:
    with Store.open(index) as store:
        first, second = sorted(store.videos.fingerprints().values())
    for content, tracks, found in (
        (first, [], "No people were found in 1 video."),
        (
            second,
            make_tracks([0]),
            "1 track was found in 2 videos; a person without a name is listed from 2 tracks on.",
        ),
    ):
        with IdentityStore.create(index) as identities:
            identities.write_tracks(content, FACES, tracks)
        Persons(index).group()
        assert run.err("people") == found
    assert "This index was not read for speakers." in run.err("speakers")
