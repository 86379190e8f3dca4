"""Captions in other words: what is asked, resuming, failures, and which wordings training reads."""

from pathlib import Path

import numpy as np
import pytest

from tests.chatting import Reply, run_chat, run_endpoint, say
from tests.fakes import ColourEncoder, write_film
from vidret.data.augment import Augmentation
from vidret.data.dataset import CaptionedVideos, Collate, read_rewritten
from vidret.data.records import Caption, Split
from vidret.encode.clip.text import clip_words
from vidret.encode.sentences import DIM, FINGERPRINT, NAME
from vidret.endpoints.transport import EndpointError
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.language.endpoint import ChatEndpoint
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.train.rewriting import read_seen, rewrite_captions
from vidret.types import TimedText

CAPTIONS = [Caption(str(row), f"v{row // 2}", f"a dog runs {row}") for row in range(6)]
MISSING = Reply(b"", status=404)


def make_endpoint(url: str) -> ChatEndpoint:
    return ChatEndpoint(url=url, model="small", retries=0)


def test_captions_are_reworded_once_and_a_failed_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rewritten.jsonl"
    with pytest.raises(EndpointError):
        rewrite_captions(CAPTIONS, make_endpoint("http://127.0.0.1:1"), path)
    assert not path.exists()
    with run_endpoint(lambda request, request_index: say(reword(request)) if request_index < 4 else MISSING) as chat:
        assert rewrite_captions(CAPTIONS, make_endpoint(chat.url), path, variants=2) == 2
        with pytest.raises(EndpointError, match="404"):
            rewrite_captions(CAPTIONS, make_endpoint(chat.url), path)
    assert len(read_rewritten(path)) == 4
    content = path.read_text("utf-8")
    path.write_text(content + '{"video": "v2", "capt', "utf-8")  # a run was killed
    with run_endpoint(lambda request, _: say(reword(request))) as chat:
        again = [*CAPTIONS, CAPTIONS[0]]
        assert rewrite_captions(again, make_endpoint(chat.url), path, variants=2) == 0
        assert path.read_text("utf-8").startswith(content), "what is whole stays"
        path.write_text(path.read_text("utf-8").rstrip(), "utf-8")
        assert rewrite_captions(again, make_endpoint(chat.url), path, variants=2) == 0
        assert path.read_text("utf-8").endswith("}\n")
        assert len(chat.requests) == 2
        assert "2 captions" in chat.requests[0]["messages"][0]["content"]
    assert read_rewritten(path) == {
        (caption.video, caption.text): (f"{caption.text}, it seems", "a hound") for caption in CAPTIONS
    }
    with pytest.raises(VidretError, match="variants must be at least 1, got 0"):
        rewrite_captions(CAPTIONS, make_endpoint("http://127.0.0.1:1"), path, variants=0)
    path.write_text('{"video": "v0", "caption": "a", "variants": [1]}\n')
    with pytest.raises(VidretError, match=r"rewritten\.jsonl:1: variants must be a non-empty string, got 1"):
        read_rewritten(path)
    path.write_text('{"video": "v0", "caption": "a\u2028b", "variants": []}\n', encoding="utf-8")
    assert read_rewritten(path) == {("v0", "a\u2028b"): ()}, "a line ends at a line feed only"


@pytest.mark.parametrize("failed", range(4))
def test_answers_beside_one_that_failed_are_kept(tmp_path: Path, failed: int) -> None:
    lost = CAPTIONS[failed].text

    def answer(request: dict[str, object], _number: int) -> Reply:
        return MISSING if request["messages"][-1]["content"] == lost else say(reword(request))  # type: ignore[index]

    path = tmp_path / "rewritten.jsonl"
    with run_endpoint(answer) as chat:
        assert rewrite_captions(CAPTIONS, make_endpoint(chat.url), path) == 3
    assert {text for _, text in read_rewritten(path)} == {caption.text for caption in CAPTIONS[:4]} - {lost}


def reword(request: dict[str, object]) -> str:
    """Return a numbered reply with the caption itself, two other wordings, and one too many."""
    text = request["messages"][-1]["content"]  # type: ignore[index]
    return f"1. {text}\n2. {text}, it seems\n\n- a hound\n* a hound again"


def test_descriptions_of_an_index_are_joined_with_captions(tmp_path: Path) -> None:
    write_film(tmp_path / "films" / "v1.mp4", ("red", 3))
    path = tmp_path / "rewritten.jsonl"
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([tmp_path / "films"])
    with Store.open(tmp_path / "index") as store:
        (video,) = store.videos.find()
        with TextStore.create(store.path, encoder=NAME, fingerprint=FINGERPRINT, dim=DIM) as texts:
            fingerprint = store.videos.get(video.id).fingerprint
            track = texts.begin(fingerprint, "generated", "small 1", duration_s=3.0)
            found = [TimedText(0.0, 3.0, "A red wall.", "generated")]
            texts.add(track, found, np.eye(1, DIM, dtype=np.float32), until_s=3.0)
            texts.save()
        seen = read_seen(store, CAPTIONS)
        with pytest.raises(VidretError, match="descriptions of the captions' videos"):
            read_seen(store, CAPTIONS[:2])
    with run_chat(lambda _: say("A red wall.")) as chat:
        assert seen == {"v1": "A red wall."}
        rewrite_captions(CAPTIONS[1:3], make_endpoint(chat.url), path, seen=seen)
    asked = sorted([message["content"] for message in request["messages"][1:]] for request in chat.requests)
    assert asked == [["a dog runs 1"], ["a dog runs 2", "A red wall."]]
    assert read_rewritten(path)["v1", "a dog runs 2"] == ("A red wall.",)


class Black:
    def __init__(self) -> None:
        self.unreadable: dict[str, str] = {}
        self.salvaged: dict[str, str] = {}

    def read(self, video_id: str, rng: np.random.Generator) -> np.ndarray:
        return np.zeros((1, 4, 4, 3), np.uint8)


def test_each_epoch_draws_a_wording() -> None:
    split = Split("own", (), ("v0", "v1", "v2"), tuple(CAPTIONS))
    rewritten = {("v0", "a dog runs 0"): ("a cat", "a fox")}
    dataset = CaptionedVideos(split, Black(), augmentation=Augmentation(), seed=3, rewritten=rewritten)
    drawn = [dataset[epoch, 0].text for epoch in range(60)]
    counts = {text: drawn.count(text) for text in ("a dog runs 0", "a cat", "a fox")}
    assert sum(counts.values()) == 60
    assert min(counts.values()) > 10
    assert drawn == [dataset[epoch, 0].text for epoch in range(60)], "by seed, epoch and row only"
    collate = Collate(split, num_frames=1, num_words=8)
    epoch = drawn.index("a fox")
    batch = collate([dataset[epoch, 0], dataset[epoch, 1]])
    assert batch.ids.tolist() == clip_words(["a fox", "a dog runs 1"], 8).tolist()
