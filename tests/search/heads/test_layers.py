"""A grounding head on one video: agreement of files and modules, the cache of files, and postprocessing."""

import copy
import logging
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vidret.ground.pieces
import vidret.search.heads.layers
from tests.fakes import ColourEncoder
from tests.ground.samples import naive_overlap, pack
from tests.grounded import (
    AT_ONCE,
    NUM_LAYERS,
    answer_directly,
    look,
    make_encoder,
    project_directly,
    write_head,
    write_numbers,
)
from vidret.encode.clip.encoder import ClipEncoder
from vidret.errors import DecodeError, EncoderError, StoreError, VidretError
from vidret.ground.pieces import load_projected
from vidret.ground.postprocess import find_highlights, postprocess_spans
from vidret.ground.projected import ProjectedVideos
from vidret.ground.windows import Window
from vidret.search.heads.base import GroundedVideo
from vidret.search.heads.layers import Grounder
from vidret.search.heads.prepared import forget_others
from vidret.types import Frames, LayerTokens, Sampling
from vidret.video.identity import fingerprint
from vidret.video.reader import read_frames

pytestmark = pytest.mark.usefixtures("pools")

CPU = torch.device("cpu")
QUERY = "a dog on a beach"
WINDOWS = [Window(0, 75), Window(27, 102), Window(55, 130)]  # of 130 frames
DTYPES = {"int8": torch.int8, "float16": torch.float16}


# Fixtures


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_numbers(folder / "long.mp4", range(130))
    write_numbers(folder / "short.mp4", range(40, 60))
    write_numbers(folder / "other.mp4", range(90, 110))
    write_numbers(folder / "third.mp4", range(140, 160))
    write_numbers(folder / "one.mp4", [7], rate=2)
    return folder


class Videos:
    """A grounder with videos by file name."""

    def __init__(self, grounder: Grounder, films: Path) -> None:
        self.grounder, self._films = grounder, films

    def prepare(self, name: str, *, keep: bool = False) -> Path:
        return self.grounder.prepare(self.describe(name), keep=keep)

    def describe(self, name: str, duration: float = 130.0) -> GroundedVideo:
        return describe_film(self._films / name, duration)

    def answer(self, name: str, duration: float = 130.0) -> list[Any]:
        return self.grounder.answer(self.grounder.read(QUERY), self.describe(name, duration))


def describe_film(film: Path, duration: float = 130.0, content: str | None = None) -> GroundedVideo:
    return GroundedVideo(path=str(film), content=content or fingerprint(film), duration=duration)


@pytest.fixture
def open_videos(head: Path, films: Path, tmp_path: Path) -> Callable[..., Videos]:
    def make(**settings: Any) -> Videos:
        chosen = settings.pop("head", head)
        encoder = settings.pop("encoder", None) or make_encoder()
        return Videos(Grounder(chosen, encoder, tmp_path / "moments", **settings), films)

    return make


def list_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# Agreement with the modules


@pytest.mark.parametrize(("tokens", "merging"), [("int8", False), ("int8", True), ("float16", True)])
@pytest.mark.parametrize(("name", "windows", "duration"), [("long.mp4", WINDOWS, 130.0), ("one.mp4", [(0, 1)], 0.5)])
def test_files_give_the_results_of_the_modules(
    open_videos: Callable[..., Videos],
    head: Path,
    films: Path,
    *,
    name: str,
    windows: list[Window],
    duration: float,
    tokens: str,
    merging: bool,
) -> None:
    encoder = make_encoder(merging=merging)
    videos = open_videos(encoder=encoder, tokens=tokens)
    exact = project_directly(films / name, head, encoder, [Window(*window) for window in windows], DTYPES[tokens])
    loaded = list(load_projected(videos.prepare(name), device=CPU))
    assert [window for window, _ in loaded] == windows
    for (_, projected), other in zip(loaded, exact, strict=True):
        for kind in ("layers", "scales", "biases"):
            for layer, (one, two) in enumerate(zip(getattr(projected, kind), getattr(other, kind), strict=True)):
                assert (one is None) == (two is None)
                if kind == "biases" and one is not None and two is not None:
                    assert torch.equal(one, two)
                elif kind == "layers":
                    check_close(projected, other, layer)
    if merging and name == "long.mp4":
        biases = [videos_of_window.biases[-1] for _, videos_of_window in loaded]
        assert any(bias is not None and bias.isneginf().any() for bias in biases), (
            "parts have different numbers of tokens"
        )
    spans, answer = videos.answer(name, duration), answer_directly(loaded, QUERY, head, encoder)
    np.testing.assert_allclose(spans, postprocess_spans(answer, videos.grounder.card, duration=duration), rtol=1e-6)
    saliency = videos.grounder.rate_frames(videos.grounder.read(QUERY), videos.describe(name))
    np.testing.assert_allclose(saliency, answer.saliency, rtol=1e-6)
    assert len(spans) > 0
    assert saliency.std() > 0 or name == "one.mp4"


def test_videos_together_give_the_spans_of_each(
    open_videos: Callable[..., Videos], films: Path, caplog: pytest.LogCaptureFixture
) -> None:
    videos = open_videos()
    described = [videos.describe(name, duration) for name, duration in (("short.mp4", 20.0), ("long.mp4", 130.0))]
    gone = GroundedVideo(path=str(films / "gone.mp4"), content="gone", duration=20.0)
    described += [gone, videos.describe("one.mp4", 0.5), videos.describe("other.mp4", 20.0)]
    words = videos.grounder.read(QUERY)
    together = videos.grounder.answer_many(words, described)
    assert together.pop(2) is None
    assert "the head left out" in caplog.text
    assert "gone.mp4" in caplog.text
    described.remove(gone)
    for spans, video in zip(together, described, strict=True):
        np.testing.assert_allclose(spans or [], videos.grounder.answer(words, video), rtol=1e-5, atol=1e-6)

    videos.prepare("other.mp4").write_bytes(b"damaged")
    again = videos.grounder.answer_many(words, described)
    np.testing.assert_allclose(again[-1] or [], together[-1] or [], rtol=1e-5, atol=1e-6)


def check_close(projected: ProjectedVideos, other: ProjectedVideos, layer: int) -> None:
    """Compare real tokens, of which files keep a part in float16 until the video's length is known."""
    real = torch.ones(projected.layers[layer].shape[:3], dtype=torch.bool)
    if (bias := projected.biases[layer]) is not None:
        real = ~bias.isneginf()
    one, two = projected.tokens(layer)[real], other.tokens(layer)[real].detach()
    torch.testing.assert_close(one, two, rtol=0, atol=0.02 * float(two.abs().max()))


def test_frame_rate_is_that_of_the_card(
    open_videos: Callable[..., Videos], layer_passes: list[int], tmp_path: Path
) -> None:
    for recipe, num_frames in (("qvhighlights", 65), ("charades", 130), ("youtube", 65)):
        layer_passes.clear()
        videos = open_videos(head=write_head(tmp_path / f"{recipe}.safetensors", recipe))
        windows = [window for window, _ in load_projected(videos.prepare("long.mp4"), device=CPU)]
        assert windows[-1].last == num_frames
        assert sum(layer_passes) == num_frames
        assert max(layer_passes) <= AT_ONCE


def test_heads_for_benchmarks_of_long_videos_read_them_whole(
    open_videos: Callable[..., Videos], films: Path, tmp_path: Path
) -> None:
    write_numbers(films / "longer.mp4", range(400))
    for recipe, num_windows in (("qvhighlights", 4), ("tacos", 1), ("ego4d", 1)):
        videos = open_videos(head=write_head(tmp_path / f"{recipe}.safetensors", recipe))
        windows = [window for window, _ in load_projected(videos.prepare("longer.mp4"), device=CPU)]
        assert (len(windows), windows[-1].last) == (num_windows, 200), recipe
        asked = [videos.describe(name, 400.0) for name in ("longer.mp4", "one.mp4")]
        together = videos.grounder.answer_many(videos.grounder.read(QUERY), asked)
        assert together[0] == videos.answer("longer.mp4", 400.0)


def test_memory_is_one_window_at_any_length(
    open_videos: Callable[..., Videos], films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most one window of raw layers and two windows of projected tokens are alive at a time."""
    write_numbers(films / "longer.mp4", range(400))
    raw: list[weakref.ref[np.ndarray]] = []
    most_raw, most_projected = [0], [0]
    projected: list[weakref.ref[torch.Tensor]] = []
    encode = ClipEncoder.encode_layers

    def count_raw(self: ClipEncoder, frames: Frames, num_layers: int) -> LayerTokens:
        tokens = encode(self, frames, num_layers)
        raw.append(weakref.ref(tokens.layers[0]))
        most_raw[0] = max(most_raw[0], sum(len(live) for ref in raw if (live := ref()) is not None))
        return tokens

    def count_projected(*parts: Any) -> Any:
        videos_of_window = ProjectedVideos(*parts)
        projected.append(weakref.ref(videos_of_window.layers[0]))
        most_projected[0] = max(most_projected[0], sum(ref() is not None for ref in projected))
        return videos_of_window

    monkeypatch.setattr(ClipEncoder, "encode_layers", count_raw)
    monkeypatch.setattr(vidret.ground.pieces, "ProjectedVideos", count_projected)
    videos, seen = open_videos(), {}
    for name in ("long.mp4", "longer.mp4"):
        most_raw[0] = most_projected[0] = 0
        videos.prepare(name)
        seen[name] = most_raw[0], most_projected[0]
    assert len(projected) == 3 + 8
    assert seen["long.mp4"][0] <= seen["longer.mp4"][0] <= 75 + 2 * AT_ONCE
    assert seen["longer.mp4"][1] <= 2


# The cache


def test_second_query_does_not_encode_the_video_again(
    open_videos: Callable[..., Videos], layer_passes: list[int], films: Path, tmp_path: Path
) -> None:
    videos = open_videos()
    first = videos.answer("short.mp4", 20.0)
    assert sum(layer_passes) == 20
    assert videos.answer("short.mp4", 20.0) == first
    assert open_videos().answer("short.mp4", 20.0) == first, "another process does not either"
    moved = tmp_path / "moved.mp4"
    shutil.copy(films / "short.mp4", moved)
    videos.grounder.prepare(describe_film(moved))
    gone = describe_film(tmp_path / "gone.mp4", content=fingerprint(moved))
    assert videos.grounder.prepare(gone).is_file(), "a cached file needs no video"
    assert sum(layer_passes) == 20
    assert len(list_files(tmp_path / "moments")) == 1


def test_heads_encoders_and_token_formats_do_not_share_files_but_copies_do(
    open_videos: Callable[..., Videos], layer_passes: list[int], head: Path, tmp_path: Path
) -> None:
    write_head(tmp_path / "other.safetensors", seed=5)
    write_head(tmp_path / "slower.safetensors", fps=0.5)
    variants: list[dict[str, Any]] = [
        {},
        {"tokens": "float16"},
        {"head": tmp_path / "other.safetensors"},
        {"head": tmp_path / "slower.safetensors"},
        {"encoder": make_encoder(merging=True)},
        {"encoder": make_encoder(seed=2)},
    ]
    paths = set()
    for settings in variants:
        layer_passes.clear()
        paths.add(open_videos(**settings).prepare("short.mp4"))
        assert layer_passes, "computed for this one"
        open_videos(**settings).prepare("short.mp4")
        assert sum(layer_passes) in (10, 20), "once"
    assert len(paths) == len(variants)
    shutil.copy(head, tmp_path / "copy.safetensors")
    assert open_videos(head=tmp_path / "copy.safetensors").prepare("short.mp4") in paths


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_least_recently_used_file_is_dropped_first_and_never_the_newest(open_videos: Callable[..., Videos]) -> None:
    sized = open_videos()
    one = sized.prepare("short.mp4")
    size = one.stat().st_size
    videos = open_videos(limit=2 * size + 100)
    two = videos.prepare("other.mp4")
    age(one, 100)
    age(two, 50)
    videos.answer("short.mp4", 20.0)  # used now, so that the other is the least recently used
    three = videos.prepare("third.mp4")
    assert [path.exists() for path in (one, two, three)] == [True, False, True]
    age(one, 100)
    age(three, 50)
    small = open_videos(limit=10)
    two = small.prepare("other.mp4")
    assert [path.exists() for path in (one, two, three)] == [False, True, False], "the newest stays at any size"
    assert small.answer("short.mp4", 20.0)


def test_kept_files_stay_and_cached_ones_can_be(open_videos: Callable[..., Videos], layer_passes: list[int]) -> None:
    videos = open_videos(limit=10)
    cached = videos.prepare("short.mp4")
    kept = videos.prepare("short.mp4", keep=True)
    assert sum(layer_passes) == 20, "not computed again"
    assert (cached.exists(), kept.exists()) == (False, True)
    age(kept, 1000)
    for name in ("other.mp4", "third.mp4", "one.mp4"):
        videos.prepare(name)
    layer_passes.clear()
    assert videos.prepare("short.mp4") == videos.prepare("short.mp4", keep=True) == kept
    assert layer_passes == []


@pytest.mark.parametrize(
    ("damage", "keep"), [("torn", False), ("torn", True), ("foreign", False), ("flipped", True), ("empty", False)]
)
def test_damaged_file_is_computed_again_with_a_warning(
    open_videos: Callable[..., Videos], caplog: pytest.LogCaptureFixture, damage: str, *, keep: bool
) -> None:
    videos = open_videos()
    path = videos.prepare("short.mp4", keep=keep)
    first, data = videos.answer("short.mp4", 20.0), path.read_bytes()
    assert not caplog.records
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    path.write_bytes({"torn": data[:-300], "foreign": b"something else", "flipped": flipped, "empty": b""}[damage])
    assert videos.answer("short.mp4", 20.0) == first
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{path}: cannot be read (")
    assert record.getMessage().endswith("; computed again")
    assert videos.answer("short.mp4", 20.0) == first
    assert len(caplog.records) == 1
    assert path.exists(), "kept if it was kept"


def test_file_dropped_by_another_process_is_computed_again(
    open_videos: Callable[..., Videos], monkeypatch: pytest.MonkeyPatch, layer_passes: list[int]
) -> None:
    videos = open_videos()
    first = videos.answer("short.mp4", 20.0)
    drops = iter([True, False])

    def drop_and_load(path: Path, *, device: torch.device) -> Any:
        if next(drops):
            path.unlink()
        return load_projected(path, device=device)

    monkeypatch.setattr(vidret.search.heads.layers, "load_projected", drop_and_load)
    assert videos.answer("short.mp4", 20.0) == first
    assert sum(layer_passes) == 40


def test_file_dropped_before_use_is_made(open_videos: Callable[..., Videos], monkeypatch: pytest.MonkeyPatch) -> None:
    videos = open_videos()
    cached, exists = videos.prepare("short.mp4"), Path.exists

    def drop_after(path: Path) -> bool:
        existed = exists(path)
        cached.unlink(missing_ok=True)
        return existed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "exists", drop_after)
        kept = videos.prepare("short.mp4", keep=True)
    assert (kept.exists(), cached.exists(), kept.parent.name) == (True, False, "kept")


def test_one_video_can_be_queried_from_many_threads(open_videos: Callable[..., Videos], tmp_path: Path) -> None:
    expected = open_videos().answer("short.mp4", 20.0)
    shutil.rmtree(tmp_path / "moments")
    answers: list[Any] = []

    def ask() -> None:
        answers.append(open_videos(limit=10).answer("short.mp4", 20.0))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 4
    assert len(list_files(tmp_path / "moments")) == 1, "no partial file stays"


def test_files_of_removed_videos_are_deleted(open_videos: Callable[..., Videos], films: Path, tmp_path: Path) -> None:
    videos, folder = open_videos(), tmp_path / "moments"
    other = open_videos(head=write_head(tmp_path / "other.safetensors", seed=5))
    removed = [videos.prepare("short.mp4"), videos.prepare("other.mp4", keep=True), other.prepare("other.mp4")]
    kept = videos.prepare("third.mp4")
    stale, fresh = kept.with_name("x.zip.1-2.part"), kept.with_name("y.zip.1-2.part")
    for path in (stale, fresh):
        path.touch()
    age(stale, 2 * vidret.search.heads.prepared.ABANDONED)
    forget_others(folder, {fingerprint(films / "third.mp4")})
    assert not any(path.exists() for path in removed)
    assert list_files(folder) == sorted(path.relative_to(folder).as_posix() for path in (kept, fresh))
    forget_others(tmp_path / "nowhere", set())


# Damaged and changed videos


def test_unreadable_or_changed_video_leaves_no_file(
    open_videos: Callable[..., Videos], films: Path, tmp_path: Path
) -> None:
    videos, bad = open_videos(), tmp_path / "bad.mp4"
    bad.write_text("no video")
    for video, reason in (
        (describe_film(bad), ""),
        (describe_film(tmp_path / "gone.mp4", content="0" * 32), ""),
        (describe_film(films / "other.mp4", content=fingerprint(films / "short.mp4")), ": has changed since it was"),
    ):
        with pytest.raises(DecodeError, match=Path(video.path).name + reason):
            videos.grounder.prepare(video)
    assert list_files(tmp_path / "moments") == []


def test_content_that_leads_out_of_the_folder_is_refused(open_videos: Callable[..., Videos]) -> None:
    grounder = open_videos().grounder
    for content in ("../../own/archive", "..", "/tmp/a", ""):
        with pytest.raises(StoreError, match="content must be a fingerprint"):
            grounder.files.locate(content, keep=False)
        with pytest.raises(StoreError, match="content must be a fingerprint"):
            grounder.finish("film.mp4", content, [], first=0.0)


@pytest.mark.parametrize("at_once", [1, AT_ONCE])
@pytest.mark.parametrize("lost", ["middle", "end"])
def test_unreadable_frame_is_replaced_by_the_nearest_of_its_segment(
    open_videos: Callable[..., Videos], tmp_path: Path, caplog: pytest.LogCaptureFixture, lost: str, at_once: int
) -> None:
    # Read by PyAV: Decord's last frame before the damage is not reproducible.
    film = write_numbers(tmp_path / "torn.mp4", range(60), codec="mpeg4")
    data = bytearray(film.read_bytes())
    start = data.index(b"mdat")
    size = int.from_bytes(data[start - 4 : start], "big")
    first, last = {"middle": (0.4, 0.5), "end": (0.6, 1.0)}[lost]
    bad = slice(start + 4 + int(first * size), start - 4 + int(last * size))
    data[bad] = bytes(bad.stop - bad.start)
    film.write_bytes(data)
    readable = [int(time) for time in read_frames(str(film), indices=range(60)).times]
    num_lost = 60 - len(readable)
    assert 3 < num_lost < 50
    assert (59 in readable) == (lost == "middle")

    def stand_in(number: int) -> int:
        """Return the nearest readable frame of the segment, or if there is none, that of the step before."""
        step_frames = [frame for frame in readable if frame // at_once == number // at_once]
        return min(step_frames, key=lambda frame: abs(frame - number)) if step_frames else stand_in(number - 1)

    num_steps = min(60, (max(readable) // at_once + 1) * at_once)

    encoder = copy.copy(make_encoder())
    encoder.sampling = Sampling(at_once)
    videos = open_videos(encoder=encoder)
    parts = look(film, encoder, 1.0, stand_in)[: -(-num_steps // at_once)]
    layers = [
        torch.from_numpy(np.concatenate([part.layers[layer] for part in parts]))[None] for layer in range(NUM_LAYERS)
    ]
    exact = pack(videos.grounder._head.prepare(layers), torch.int8)
    ((window, loaded),) = load_projected(videos.grounder.prepare(describe_film(film)), device=CPU)
    assert window == (0, num_steps)
    for layer in range(NUM_LAYERS):
        check_close(loaded, exact, layer)
    assert f"{60 - num_lost} of 60 chosen frames could be read: damaged" in caplog.text


def test_truncated_file_has_windows_of_its_readable_frames(
    open_videos: Callable[..., Videos], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    film = write_numbers(tmp_path / "cut.mp4", range(130), container_options={"movflags": "faststart"})
    os.truncate(film, int(film.stat().st_size * 0.8))
    loaded = list(load_projected(open_videos().grounder.prepare(describe_film(film)), device=CPU))
    assert 75 < loaded[-1][0].last < 130
    assert f"{loaded[-1][0].last} of 130 frames could be read: truncated" in caplog.text


def test_frame_shown_for_longer_is_repeated(open_videos: Callable[..., Videos], tmp_path: Path) -> None:
    slides = write_numbers(tmp_path / "slides.mkv", [3, 8, 5], pts=[0, 20, 100], codec="ffv1", pix_fmt="bgr0")
    steady = write_numbers(tmp_path / "steady.mkv", [3] * 20 + [8] * 80 + [5], codec="ffv1", pix_fmt="bgr0")
    stills, frames = (
        list(load_projected(open_videos().grounder.prepare(describe_film(film)), device=CPU))
        for film in (slides, steady)
    )
    assert [window for window, _ in stills] == [window for window, _ in frames] == [Window(0, 75), Window(26, 101)]
    # Near a change, the index samples the frame that begins nearest, not the one that is shown.
    for (_, still), (_, frame), far in zip(stills, frames, (slice(21, 75), slice(0, 70)), strict=True):
        assert all(
            torch.equal(one[:, far], other[:, far]) for one, other in zip(still.layers, frame.layers, strict=True)
        )


# Invalid heads


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"text_width": 32}, VidretError, "text layers must be 32 wide, got 24 of tiny"),
        ({"width": 64}, VidretError, r"wrong\.safetensors: video layers must be 64 wide, got 32 of tiny"),
        ({"num_layers": 4}, EncoderError, r"num_layers must be in 1..3 for tiny, got 4"),
        ({"suppression": "soft"}, VidretError, "suppression must be one of None, hard, linear, gaussian, got soft"),
        ({"suppression": "gaussian", "threshold": 0.0}, VidretError, "threshold must be positive, got 0.0"),
    ],
)
def test_head_for_another_encoder_is_rejected(
    open_videos: Callable[..., Videos], tmp_path: Path, changes: dict[str, Any], kind: type[VidretError], sentence: str
) -> None:
    wrong = write_head(tmp_path / "wrong.safetensors", **changes)
    with pytest.raises(kind, match=sentence) as raised:
        open_videos(head=wrong).prepare("short.mp4")
    assert "\n" not in str(raised.value)


def test_invalid_head_encoder_or_tokens_are_rejected(
    open_videos: Callable[..., Videos], head: Path, tmp_path: Path
) -> None:
    with pytest.raises(VidretError, match=r"head\.safetensors: must have a CLIP model of ours as encoder, got colours"):
        Grounder(head, ColourEncoder(), tmp_path)
    with pytest.raises(VidretError, match="tokens must be int8 or float16, got int4"):
        open_videos(tokens="int4")
    with pytest.raises(VidretError, match=r"gone\.safetensors: "):
        open_videos(head=tmp_path / "gone.safetensors")
    (tmp_path / "text.safetensors").write_text("no head")
    with pytest.raises(VidretError, match=r"text\.safetensors: "):
        open_videos(head=tmp_path / "text.safetensors")


def test_head_for_another_encoder_of_the_same_widths_is_warned_about(
    open_videos: Callable[..., Videos], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_videos()
    open_videos(head=write_head(tmp_path / "same.safetensors", backbone=str(Path("tiny").absolute())))
    assert caplog.text == ""
    open_videos(head=write_head(tmp_path / "h.safetensors", backbone="ViT-B-32/laion"))
    assert "h.safetensors: was made for ViT-B-32/laion, and reads tiny" in caplog.text


def test_unwritable_folder_is_an_error(open_videos: Callable[..., Videos], tmp_path: Path) -> None:
    (tmp_path / "moments").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        open_videos().answer("short.mp4", 20.0)


# Highlight heads


def test_highlights_are_spans_of_high_saliency() -> None:
    saliency = np.full(60, 0.1, np.float32)
    saliency[10:16], saliency[40:45] = 0.9, 0.6
    first, second, *others = find_highlights(saliency, fps=0.5, duration=119.0, limit=5)
    assert first == pytest.approx((20.0, 32.0, 0.9))
    assert second == pytest.approx((80.0, 90.0, 0.6))
    assert all(span.score < 0.5 for span in others)
    assert all(0 <= span.start < span.end <= 119 for span in others)
    apart = find_highlights(saliency - 2, fps=0.5, duration=119.0, limit=5)  # the query is unlike all frames
    assert (apart[0].start, apart[0].end, apart[0].score) == (first.start, first.end, 0.0)
    (short,) = find_highlights(np.array([0.3], np.float32), fps=0.5, duration=0.7, limit=5)
    assert short == pytest.approx((0.0, 0.7, 0.3))


@pytest.mark.parametrize("recipe", ["youtube", "tvsum"])
def test_highlight_head_answers_with_spans(open_videos: Callable[..., Videos], tmp_path: Path, recipe: str) -> None:
    videos = open_videos(head=write_head(tmp_path / "highlights.safetensors", recipe, boundaries=False))
    spans = videos.answer("long.mp4")
    saliency = videos.grounder.rate_frames(videos.grounder.read(QUERY), videos.describe("long.mp4"))
    assert len(saliency) == 65
    assert spans
    assert [span.score for span in spans] == sorted((span.score for span in spans), reverse=True)
    for index, span in enumerate(spans):
        frames = [frame for frame in range(65) if span.start <= 2 * frame + 1 < span.end]
        score = float(np.mean(saliency[frames]))
        for better in spans[:index]:
            score *= 1 - naive_overlap(span, better)
        assert span.score == pytest.approx(score, rel=1e-5)
        assert 0 <= span.start < span.end <= 130
