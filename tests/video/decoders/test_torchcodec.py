"""torchcodec: on the CPU against PyAV, where it is installed; on a GPU that a double of it emulates."""

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.video.conftest import EVERY_FRAME, Film, stream_film
from vidret.errors import VidretError
from vidret.types import Resize, Sampling
from vidret.video.decoders.base import GaveUpError
from vidret.video.decoders.registry import choose_decoder
from vidret.video.decoders.torchcodec import DeviceImage, TorchcodecDecoder, load_torchcodec
from vidret.video.geometry import resize_image
from vidret.video.grey import grey_from_luma
from vidret.video.probe import probe
from vidret.video.reader import read_frames
from vidret.video.workers.messages import Finished
from vidret.video.workers.pool import DecodePool, find_gpu_decoders

EXACT = {"h264.mp4", "h264.mkv", "h264_uneven.mp4", "h264_uneven.mkv", "h264_sound.mp4", "hevc.mp4", "vp9.webm"}
EXACT |= {"vp9_alpha.webm", "vp8.webm", "av1.mp4", "av1.mkv", "mpeg4.mp4", "wmv2.wmv", "mjpeg.avi", "mjpeg.mov"}
EXACT |= {"prores.mov", "ffv1.mkv", "anim.gif", "turned_90.mp4", "turned_180.mp4", "turned_270.mp4", "edit_list.mp4"}
EXACT |= {"one.mp4", "one.webm"}

# torchcodec as far as vidret uses it, on PyAV, with GPUs that are the CPU: it notes who decodes what where, and fails
# as a file's name says.
EMULATED = """
import os, types
import torch
from vidret.video.probe import probe
from vidret.video.decoders.pyav import PyavDecoder

real_empty = torch.empty
torch.empty = lambda *size, device=None, **options: real_empty(*size, **options)

class VideoDecoder:
    def __init__(self, source, *, stream_index, dimension_order, seek_mode, device):
        assert (dimension_order, seek_mode) == ("NHWC", "exact")
        self.path, self.info, self.images = source, probe(source), {{}}
        assert stream_index == self.info.stream
        self.metadata = types.SimpleNamespace(begin_stream_seconds_from_content=7.0)
        self.cpu_fallback = "NVDEC does not know it" if "refused" in source else ""
        with open({log!r}, "a") as file:
            file.write(f"{{os.getpid()}} {{device}}\\n")

    def __len__(self):
        return self.info.num_frames

    def get_frame_at(self, index):
        if not self.images:
            decoder = PyavDecoder(self.info, lambda: None)
            self.images = {{found: image.copy() for found, image in decoder.decode(range(len(self)))}}
            decoder.close()
        found = index - 1 if "inexact" in self.path and index > 50 else index
        time_s = 7.0 + self.info.times[found] - self.info.times[0]
        return types.SimpleNamespace(data=torch.from_numpy(self.images[found].copy()), pts_seconds=time_s)
"""


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give decoding processes the double; return where it notes process and device of every file."""
    scratch = tmp_path_factory.mktemp("emulated")
    folder, log = scratch / "path" / "torchcodec", scratch / "log"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text('__version__ = "0.12.0+cu130"')
    (folder / "decoders.py").write_text(EMULATED.format(log=str(log)))
    find_gpu_decoders.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder.parent), os.environ.get("PYTHONPATH", "")]))
        patch.setattr("vidret.video.decoders.torchcodec.find_spec", lambda _name: object())
        yield log
    find_gpu_decoders.cache_clear()


def test_every_other_film_is_doubted(films: dict[str, Film]) -> None:
    assert {name for name, film in films.items() if not TorchcodecDecoder.find_doubt(probe(film.path))} == EXACT


@pytest.mark.parametrize("name", ["turned_90.mp4", "prores.mov", "mpeg4.mp4"])
def test_what_gpus_do_not_decode_is_doubted_there_alone(films: dict[str, Film], name: str) -> None:
    info = probe(films[name].path)
    assert choose_decoder(info)[0] != "torchcodec", "on the CPU"
    assert TorchcodecDecoder.find_doubt(info) == ""
    assert TorchcodecDecoder.find_doubt(info, on_gpu=True)
    assert "takes too long" in TorchcodecDecoder.find_doubt(replace(info, num_bytes=9 << 30))


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (["libavutil.so.60: no such file", "libavutil.so.56: no such file"], "FFmpeg was not found"),
        (["libcudart.so.13: no such file", "libavutil.so.56: no such file"], "libcudart.so.13: no such file"),
        ([], "Could not load libtorchcodec."),
    ],
)
def test_libraries_that_do_not_load_are_explained_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: list[str], reason: str
) -> None:
    lines = ["Could not load libtorchcodec. Likely causes:", *(f"OSError: {fault}" for fault in faults)]
    lines.append("OSError: Could not load this library: core8.so")
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text(f"raise RuntimeError({chr(10).join(lines)!r})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    with pytest.raises(VidretError, match="shared libraries of FFmpeg 4 to 8 and a version made for this") as caught:
        load_torchcodec()
    assert str(caught.value).startswith(f"torchcodec cannot be loaded, {reason}")
    assert "\n" not in str(caught.value)
    assert TorchcodecDecoder.try_gpu(0) == str(caught.value)


@given(
    size=st.sampled_from([(48, 64), (30, 50), (120, 17), (720, 1280)]),
    resize=st.builds(
        lambda crop, more, interpolation, squash: Resize(crop + more, crop, interpolation, squash),
        st.integers(8, 64),
        st.integers(0, 8),
        st.sampled_from(["bilinear", "bicubic"]),
        st.booleans(),
    ),
    seed=st.integers(0, 99),
)
def test_resizing_on_the_device_differs_by_rounding_alone(size: tuple[int, int], resize: Resize, seed: int) -> None:
    # Without black and white: where bicubic filters overshoot, the order of Pillow's passes, which varies, decides.
    image = np.random.default_rng(seed).integers(64, 192, (*size, 3), dtype=np.uint8)
    device_image = DeviceImage(torch.from_numpy(image))
    assert (device_image.read_grey() == grey_from_luma(image[:, :, 1])).all()
    assert (device_image.read() == image).all()
    found = device_image.resize(resize)
    expected = resize_image(image, resize)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 2


def test_a_device_that_fails_leaves_the_frame_to_another_decoder() -> None:
    image = DeviceImage(torch.empty((48, 64, 3), dtype=torch.uint8, device="meta"))  # which cannot be copied
    for use in (image.read, image.read_grey, lambda: image.resize(Resize(32, 32))):
        with pytest.raises(GaveUpError):
            use()
    with pytest.raises(ValueError, match=r"crop must be in 1\.\.32, got 33"):
        image.resize(Resize(32, 33))


def test_auto_prefers_it_on_a_gpu_and_resizes_there(
    films: dict[str, Film], emulated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    film, resize = films["hevc.mp4"], Resize(32, 24)
    refused, inexact = tmp_path / "refused.mp4", tmp_path / "inexact.mp4"
    for link in (refused, inexact):
        link.symlink_to(film.path)
    with DecodePool(1, sampling=EVERY_FRAME, devices=["cuda:1"], resize=resize) as pool:
        opened, segments, finished = stream_film(pool, film.path)
        assert (opened.decoder, finished) == ("torchcodec", Finished(""))
        small = np.concatenate([segment.frames.pictures.pixels for segment in segments])
        expected = read_frames(str(film.path), indices=range(100), resize=resize).pixels
        assert small.shape == expected.shape
        assert 0 < np.abs(small.astype(int) - expected).max() <= 2, "another resizing than that on the CPU"
        assert {line.split()[1] for line in emulated.read_text().splitlines()} == {"cuda:1"}
        opened, segments, finished = stream_film(pool, refused)
        fallback = "torchcodec cannot decode it on GPU 1, using the CPU: NVDEC does not know it"
        assert (opened.decoder, finished.fallback) == ("pyav", fallback)
        opened, segments, finished = stream_film(pool, inexact)
        assert finished.fallback.startswith("torchcodec gave up (GPU 1 decodes hevc): frame 51 must begin at 2.040 s")
        numbers = [frame_number for segment in segments for frame_number in (segment.frames.times * 25).round()]
        assert numbers == film.numbers
    assert [record.message for record in caplog.records] == [f"{refused}: {fallback} (further files are not reported)"]


@pytest.mark.usefixtures("emulated")
def test_shots_are_followed_on_a_gpu(films: dict[str, Film]) -> None:
    film, resize = films["hevc.mp4"], Resize(32, 24)
    found = []
    for device in ("cpu", "cuda:1"):
        with DecodePool(1, sampling=Sampling(fps=5.0), devices=[device], resize=resize, shot_sampling="exact") as pool:
            opened, segments, finished = stream_film(pool, film.path)
        assert finished == Finished("")
        found.append([(segment.start, segment.end, segment.frames.times.tolist()) for segment in segments])
    assert opened.decoder == "torchcodec"
    assert found[0] == found[1]


@pytest.mark.parametrize("device", ["mps", "xpu:0"])
def test_other_accelerators_leave_decoding_to_the_cpu_and_say_so_once_if_a_decoder_was_named(
    device: str, caplog: pytest.LogCaptureFixture
) -> None:
    find_gpu_decoders.cache_clear()
    with caplog.at_level(logging.WARNING):
        DecodePool(1, devices=[device]).close()
        DecodePool(1, devices=[device], decoder="pyav").close()
        assert not caplog.records
        for _ in range(2):
            DecodePool(1, devices=[device], decoder="decord").close()
    assert caplog.messages == [f"Decord can use only NVIDIA GPUs, so the CPU decodes for {device}"]
