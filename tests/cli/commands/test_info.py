"""Tests of vidret info."""

import json
import shutil
from pathlib import Path

from tests.cli.runner import Runner
from tests.indexed_texts import add_words, find_content
from tests.made_identities import FACES, make_tracks
from vidret.store.identities.store import FILE, IdentityStore
from vidret.store.records import FIXED_GRID, FOLLOW_SHOTS, SEGMENTS
from vidret.store.store import Store


def test_info_in_text_and_json(run: Runner, index: Path) -> None:
    assert "2 done, 1 failed" in " ".join(run("info", "--index", index)[1].split())
    assert json.loads(run("info", "--index", index, "--json")[1])["videos"] == 2
    assert "bad.mp4" in run("info", "--index", index, "--failed")[1]
    failed = json.loads(run("info", "--index", index, "--failed", "--json")[1])
    assert [Path(row["path"]).name for row in failed] == ["bad.mp4"]


def test_info_says_how_films_are_cut(run: Runner, index: Path) -> None:
    for rule, words in ((FIXED_GRID, "cut at fixed lengths"), (FOLLOW_SHOTS, "cut where shots change")):
        with Store.open(index, write=True) as store:
            store.metadata.set(SEGMENTS, rule)
        assert words in " ".join(run("info", "--index", index)[1].split())
        assert json.loads(run("info", "--index", index, "--json")[1])["segment_rule"] == rule


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
        store._catalog.database.run("UPDATE videos SET facts = '{' WHERE id = 1")
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


def test_words_are_counted_listed_and_checked(run: Runner, index: Path) -> None:
    assert "words" not in json.loads(run("info", "--index", index, "--json")[1])
    add_words(index, find_content(index, "red.mp4"), ["one red apple", "two pears"])
    add_words(index, find_content(index, "blue.mp4"), [], note="no audio track")
    assert "speech 2 texts, of 2 videos; 2 complete" in " ".join(run("info", "--index", index)[1].split())
    words = json.loads(run("info", "--index", index, "--json")[1])["words"]
    assert words == [{"source": "speech", "texts": 2, "tracks": 2, "complete": 2}]
    lines = run("info", "--index", index, "--failed")[1].splitlines()
    assert [line.split()[1] for line in lines] == ["source", "video", "speech"]
    assert lines[2].endswith("speech  no audio track")
    rows = json.loads(run("info", "--index", index, "--failed", "--json")[1])
    assert (Path(rows[1]["path"]).name, rows[1]["source"], rows[1]["reason"]) == (
        "blue.mp4",
        "speech",
        "no audio track",
    )
    assert run("info", "--index", index, "--check")[0] == 0
    vectors = next((index / "words" / "features").glob("video*"))
    vectors.write_bytes(bytes(4) + vectors.read_bytes()[4:])
    code, out, err = run("info", "--index", index, "--check")
    assert code == 1
    assert out.startswith("words: text 0 of speech of ")
    assert "1 damaged parts of the words" in err
    assert run("info", "--index", index, "--repair")[0] == 0
    assert run("info", "--index", index, "--check")[0] == 0


def test_damaged_watches_are_found_and_dropped(run: Runner, index: Path) -> None:
    assert run("watch", "add", "reds", "red", "--index", index)[0] == 0
    whole = (index / "watches.json").read_bytes()
    assert run("info", "--index", index, "--check")[0] == 0
    for position in (whole.index(b"reds"), whole.index(b"last_video") + 13, 15):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        (index / "watches.json").write_bytes(damaged)
        code, out, _ = run("info", "--index", index, "--check")
        assert (code, "watches.json: cannot be read as watches" in out) == (1, True), damaged
    assert run("info", "--index", index, "--repair")[0] == 0
    assert run("info", "--index", index, "--check")[0] == 0
    assert run("watch", "add", "reds", "red", "--index", index)[0] == 0


def test_lost_words_are_found(run: Runner, index: Path, films: Path) -> None:
    (films / "red.srt").write_text("1\n00:00:00,500 --> 00:00:01,500\none red apple\n\n")
    assert run("index", films, "--index", index, "--words", "subtitles")[0] == 0
    assert run("info", "--index", index, "--check")[0] == 0
    shutil.rmtree(index / "words" / "features")
    assert run("info", "--index", index, "--check")[0] == 1
    assert run("info", "--index", index, "--repair")[0] == 0
    assert run("info", "--index", index, "--check")[0] == 0
    assert run("index", films, "--index", index, "--words", "subtitles")[0] == 0
    shutil.rmtree(index / "words")
    code, out, _ = run("info", "--index", index, "--check")
    assert (code, f"{index / 'words'}: is missing" in out) == (1, True)
    assert run("info", "--index", index, "--repair")[0] == 0
    assert run("info", "--index", index, "--check")[0] == 0
    assert run("index", films, "--index", index, "--words", "subtitles")[0] == 0
    assert "one red apple" in run("transcript", "red.mp4", "--index", index)[1]


def test_info_counts_identities_and_repairs_them(run: Runner, index: Path) -> None:
    assert "persons" not in run("info", "--index", index)[1]
    assert "identities" not in json.loads(run("info", "--index", index, "--json")[1])
    with IdentityStore.create(index) as identities:
        identities.write_tracks("a", FACES, make_tracks([0, 1]))
    assert "faces 2, of 0 persons, in 1 videos" in " ".join(run("info", "--index", index)[1].split())
    counts = {"kind": "face", "videos": 1, "tracks": 2, "persons": 0}
    assert json.loads(run("info", "--index", index, "--json")[1])["identities"] == [counts]
    assert run("info", "--index", index, "--check")[0] == 0
    (index / FILE).write_bytes(b"no database" * 1000)
    code, out, _ = run("info", "--index", index, "--check")
    assert code == 1
    assert FILE in out
    assert run("info", "--index", index, "--repair")[0] == 0
    assert run("info", "--index", index, "--check")[0] == 0
