"""Alignment with words: what pictures cannot tell is told by what is said."""

import json
from pathlib import Path

import pytest

import vidret.encode.families.registry
from tests.evaluate.world import run
from tests.fakes import ColourEncoder, write_film
from vidret.channels.texts.options import WordsOptions
from vidret.corpus.prompt_alignment import score_with_words
from vidret.errors import VidretError

pytest.importorskip("charset_normalizer", reason='the extra "words" is not installed')

LINES = {"ferry": "The ferry to the island leaves at noon", "bread": "Knead the dough and let the bread rise"}
SUBTITLES = WordsOptions(sources=("subtitles",))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make two films of one colour with subtitles beside them, and one of another without."""
    folder = tmp_path_factory.mktemp("spoken") / "videos"
    for salt, (name, line) in enumerate(LINES.items()):
        film = write_film(folder / f"{name}.mp4", ("black", 4), salt=salt)
        film.with_suffix(".srt").write_text(f"1\n00:00:01,000 --> 00:00:03,000\n{line}\n")
    write_film(folder / "red.mp4", ("red", 4))
    return folder


def test_words_tell_videos_of_one_look_apart(videos: Path) -> None:
    wanted = {"ferry": "a ship that sails to an island", "bread": "dough for bread", "red": "red"}
    prompts = {str(videos / f"{name}.mp4"): text for name, text in wanted.items()}
    found = score_with_words(ColourEncoder(), prompts, SUBTITLES)
    assert (found["sources"], found["num_with_words"]) == (["subtitles"], 2)
    assert found["prompt_recall"] == 100
    assert found["alignment"] > found["alignment_of_pictures"] + 1
    ferry, red = (found["videos"][str(videos / f"{name}.mp4")] for name in ("ferry", "red"))
    assert ferry["texts"] == [{"source": "subtitles", "start": 1.0, "text": LINES["ferry"]}]
    assert red["texts"] == []
    assert red["alignment"] == pytest.approx(red["alignment_of_pictures"])


def test_report_and_page_have_the_words(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vidret.encode.families.registry, "load_encoder", lambda *_args, **_kwargs: ColourEncoder())
    rows = [{"prompt": f"{name} <i>", "video": f"{name}.mp4"} for name in (*LINES, "red")]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    common = ("eval", "generated", "--prompts", tmp_path / "p.jsonl", "--videos", videos)
    answer = run(*common, "--words", "subtitles", "--html", tmp_path / "page.html")
    assert answer.code == 0, answer.err
    assert "subtitles; 2 videos have some" in answer.out
    page = (tmp_path / "page.html").read_text()
    assert f"subtitles 0:01.0: “{LINES['ferry']}”" in page
    assert "<i>" not in page
    refused = run(*common, "--words", "songs")
    assert (refused.code, "must be off, on or some of" in refused.err) == (2, True)


def test_what_cannot_be_compared_is_refused(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(VidretError, match="prompt 'dog -dog' cannot be compared with words: query must not exclude"):
        score_with_words(ColourEncoder(), {str(videos / "red.mp4"): "dog -dog"}, SUBTITLES)
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(VidretError, match=r"bad\.mp4"):
        score_with_words(ColourEncoder(), {str(tmp_path / "bad.mp4"): "dog"}, SUBTITLES)
