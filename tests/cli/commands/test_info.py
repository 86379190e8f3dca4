"""Tests of vidret info."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

import vidret.engine
from tests.cli.runner import Runner
from tests.indexed_texts import add_words, find_content
from tests.made_identities import FACES, make_tracks
from vidret.channels.picture.query_bank import SENTENCES
from vidret.errors import EncoderError
from vidret.search.probability import ProbabilityModel, save_probabilities
from vidret.store.identities.store import FILE, IdentityStore
from vidret.store.records import FIXED_GRID, FOLLOW_SHOTS, SAMPLING, SEGMENTS
from vidret.store.sounds import SoundStore
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import SoundWindows


def show(run: Runner) -> str:
    """Return the facts about the index, with whitespace collapsed."""
    return " ".join(run.out("info").split())


def check(run: Runner) -> str:
    """Check that damage is found, and return what is printed about it."""
    code, out, err = run("info", "--check")
    assert code == 1
    return out + err


def repair(run: Runner) -> str:
    """Repair the index, and check that no damage is left."""
    err = run.err("info", "--repair")
    run.out("info", "--check")
    return err


def test_info_in_text_and_json(run: Runner, index: Path) -> None:
    assert "2 done, 1 failed" in show(run)
    assert run.json("info")["videos"] == 2
    assert "videos 2, 2 complete; 0:09.0 in total" in show(run)
    assert "bad.mp4" in run.out("info", "--failed")
    assert [Path(row["path"]).name for row in run.json("info", "--failed")] == ["bad.mp4"]
    with Store.open(index, write=True) as store:
        torn = store.videos.find()[0]
        store.writer.finish_video(torn.id, salvaged="the end is torn")
    assert run.json("info", "--failed")[1] == {"path": torn.paths[0], "reason": "the end is torn"}
    assert "the end is torn" in run.out("info", "--failed")
    for rule, words in ((FIXED_GRID, "cut at fixed lengths"), (FOLLOW_SHOTS, "cut where shots change")):
        with Store.open(index, write=True) as store:
            store.metadata.set(SEGMENTS, rule)
        assert words in show(run)
        assert run.json("info")["segment_rule"] == rule
    assert "sampling" not in show(run)
    with Store.open(index, write=True) as store:
        store.metadata.set(SAMPLING, "fast")
    assert "sampling fast, of new videos" in show(run)


def test_info_names_the_sentence_model_of_an_index(run: Runner, index: Path) -> None:
    assert "meaning" not in show(run)
    with TextStore.create(index, encoder="st:org/name", fingerprint="f", dim=3):
        pass
    assert "meaning of texts by st:org/name" in show(run)
    assert run.json("info")["sentence_model"] == "st:org/name"


def test_info_says_what_is_calibrated(run: Runner, index: Path, tmp_path: Path) -> None:
    assert "calibrated" not in show(run) + str(run.json("info"))
    (tmp_path / "bank.txt").write_text("\n".join(SENTENCES[:12]))
    run.err("calibrate", "--bank", tmp_path / "bank.txt")
    with Store.open(index, write=True) as store:
        save_probabilities(store, ProbabilityModel(index_weights=(1, 0, 0)))
    ours = ["by 12 queries of bank.txt (SK-norm, rerank none)", "probabilities by known answers"]
    assert f"calibrated {'; '.join(ours)}" in show(run)
    assert run.json("info")["calibrated"] == ours


@pytest.mark.usefixtures("index")
def test_reports_are_asked_for_one_at_a_time(run: Runner) -> None:
    for options, sentence in (
        ("--failed --check", "--check or --repair: must be by itself, got --failed too"),
        ("--repair --recall", "--recall: must be by itself, got --check or --repair too"),
        ("--diversity --queries a.txt", "--queries: needs --recall"),
        ("red --recall", "PROMPT: needs --diversity"),
    ):
        run.check_refusal(f"info {options}", 2, sentence)


def test_damage_in_json(run: Runner, index: Path) -> None:
    assert run.json("info", "--check") == []
    (index / "collections.json").write_text("{")
    lines = check(run).splitlines()
    code, out, _ = run("info", "--check", "--json")
    assert code == 1
    assert json.loads(out) == lines[:-1]
    assert run.json("info", "--repair", "--json") == lines[:-1]
    assert run.json("info", "--check") == []


def test_every_kind_of_damage_is_found_and_repaired(run: Runner, index: Path, films: Path) -> None:
    run.out("watch", "add", "reds", "red")
    add_words(index, find_content(index, "red.mp4"), ["one red apple"])
    with IdentityStore.create(index) as identities:
        identities.write_tracks("a", FACES, make_tracks([0, 1]))
    run.out("info", "--check")
    content = (index / "watches.json").read_bytes()
    (words,) = (index / "words" / "features").glob("video*")
    (vectors,) = (index / "vectors").iterdir()
    changes: list[tuple[Path, int, str]] = [
        (index / "features" / "frames.f16", 3, "1 damaged part"),
        *(
            (index / "watches.json", at, "watches.json: cannot be read as watches")
            for at in (content.index(b"reds"), 15)
        ),
        (words, 3, "words: "),
        (index / FILE, 0, FILE),
        (vectors, -1, f"{vectors}: "),
    ]
    for path, at, reason in changes:
        damaged = bytearray(content if path.name == "watches.json" else path.read_bytes())
        damaged[at] ^= 0x40
        path.write_bytes(damaged)
        assert reason in check(run)
        repair(run)
    assert "1 encoded" in run.err("index", films)


def test_damaged_catalog_is_found_and_repaired(run: Runner, index: Path, films: Path) -> None:
    with Store.open(index, write=True) as store:
        store._catalog.database.run("UPDATE videos SET facts = '{' WHERE id = 1")
    for command in (("info", "--check"), ("index", films)):
        code, _, err = run(*command)
        assert (code, "catalog.sqlite: the row of " in err) == (1, True)
        assert "is damaged (checksum); run vidret info --repair" in err
    code, out, err = run("info", "--repair")
    assert (code, out) == (0, "catalog: the row of 1 in videos is damaged (checksum)\n")
    assert "run vidret index again over the same videos" in err
    assert "1 encoded" in run.err("index", films)
    run.out("info", "--check")
    assert len(run.json("search", "red")) == 2


def test_windows_words_and_identities_are_counted(run: Runner, index: Path) -> None:
    assert "sound_windows" not in run.json("info")
    windows = SoundWindows(starts=np.zeros(1), ends=np.ones(1), vectors=np.ones((1, 4), np.float16))
    with SoundStore.create(index) as sounds:
        for content in ("a", "b"):
            sounds.add(content, "hf:a/b", windows)
    assert run.json("info")["sound_windows"] == [{"model": "hf:a/b", "windows": 2, "videos": 2}]
    assert "2 windows by hf:a/b, of 2 videos" in show(run)
    assert "words" not in run.json("info")
    add_words(index, find_content(index, "red.mp4"), ["one red apple", "two pears"])
    add_words(index, find_content(index, "blue.mp4"), [], note="has no audio track")
    assert "speech 2 texts, of 2 videos; 2 complete" in show(run)
    assert run.json("info")["words"] == [{"source": "speech", "texts": 2, "videos": 2, "complete": 2}]
    add_words(index, find_content(index, "red.mp4"), [], source="screen", note="took too long")
    code, out, err = run("info", "--failed")
    assert [line.split()[0] for line in out.splitlines()] == ["source", "video", "screen"]
    assert (code, err) == (0, "Without an audio track: 1"), "which is no failure"
    note = run.json("info", "--failed")[1]
    assert (Path(note["path"]).name, note["source"], note["reason"]) == ("blue.mp4", "speech", "has no audio track")
    assert "persons" not in show(run)
    assert "identities" not in run.json("info")
    with IdentityStore.create(index) as identities:
        identities.write_tracks("a", FACES, make_tracks([0, 1]))
    assert "faces 2, of 0 persons, in 1 video" in show(run)
    assert run.json("info")["identities"] == [{"kind": "face", "videos": 1, "tracks": 2, "persons": 0}]


def test_lost_words_are_found(run: Runner, own_index: Path, own_films: Path) -> None:
    (own_films / "red.srt").write_text("1\n00:00:00,500 --> 00:00:01,500\none red apple\n\n")
    words = own_index / "words"
    for lost in (words / "features" / "video.f16", words / "features", words):
        run.out("index", own_films, "--words", "subtitles")
        run.out("info", "--check")
        lost.unlink() if lost.is_file() else shutil.rmtree(lost)
        assert "words" in check(run)
        repair(run)
    run.out("index", own_films, "--words", "subtitles")
    assert "one red apple" in run.out("transcript", "red.mp4")


def test_a_text_index_of_another_format_is_built_again(run: Runner, index: Path) -> None:
    add_words(index, find_content(index, "red.mp4"), ["one red apple"])
    texts = index / "words" / "texts.sqlite"
    with closing(sqlite3.connect(texts)) as database:
        database.execute("PRAGMA user_version = 1")
    assert "of another format" in check(run)
    assert repair(run).strip() == "1 damaged part, repaired: vidret index reads or encodes again what was lost"
    assert "one red apple" in run.out("transcript", "red.mp4")


def test_recall_in_a_table_and_json(run: Runner, index: Path, tmp_path: Path) -> None:
    code, out, err = run("info", "--recall")
    lines = out.splitlines()
    assert (code, "Low" in err) == (0, False)
    assert [line.split() for line in lines[:3]] == [["index", str(index)], ["vectors", "flat"], ["segments", "3"]]
    assert lines[3].split("  ")[-4:] == ["number", "recall@10", "top 10 only", "among all 3 candidates"]
    assert lines[4].startswith("its own vectors ")
    assert lines[4].split()[-4:] == ["3", "1.000", "1.000", "1.000"]
    assert lines[5].split()[-4:] == [str(len(SENTENCES)), "1.000", "1.000", "1.000"]
    (tmp_path / "bank.txt").write_text("red\nblue\n")
    row = run.json("info", "--recall", "--queries", tmp_path / "bank.txt")
    assert (row["index"], row["vectors"], row["seed"]) == (str(index), "flat", 0)
    assert row["recall"]["queries in words"]["num_queries"] == 2
    assert (row["recall"]["its own vectors"]["searched"], row["recall"]["its own vectors"]["low"]) == (1.0, False)


@pytest.mark.usefixtures("index")
def test_low_recall_is_reported_with_what_to_do(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Store.search

    def search_badly(self: Store, *arguments: object) -> object:
        scores, ids = search(self, *arguments)  # type: ignore[arg-type]
        ids[:, 1:] = -1
        return scores, ids

    monkeypatch.setattr(Store, "search", search_badly)
    code, out, err = run("info", "--recall")
    assert (code, out.splitlines()[5].split()[-3:]) == (0, ["0.333", "0.333", "0.333"])
    assert "Low for its own vectors and queries in words: 67% of the nearest segments are missed" in err
    assert "higher memory limit" in err


@pytest.mark.usefixtures("index")
def test_unmeasurable_queries_are_skipped_or_refused(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("empty", "\n"), ("bank", "red\n")):
        (tmp_path / f"{name}.txt").write_text(text)
    monkeypatch.setattr(vidret.engine, "load_encoder", Mock(side_effect=EncoderError("its file is gone")))
    code, out, err = run("info", "--recall")
    assert (code, len(out.splitlines())) == (0, 5)
    assert "queries in words are not measured: its file is gone" in err
    for arguments, code, message in (
        (("--recall", "--queries", tmp_path / "bank.txt"), 1, "its file is gone"),
        (("--recall", "--queries", tmp_path / "empty.txt"), 1, "queries must not be empty, got none"),
        (("--recall", "--queries", tmp_path / "nowhere.txt"), 1, "nowhere.txt: cannot be read"),
        (("--queries", tmp_path / "empty.txt"), 2, "needs --recall"),
    ):
        run.check_refusal(("info", *arguments), code, message)
