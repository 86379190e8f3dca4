"""Models of transformers: equal to the library's own forward, and what is said when one cannot be loaded."""

import functools
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import huggingface_hub
import numpy as np
import pytest
import torch
from torch.nn import functional

import vidret.search.locating
from tests.encode.hf_models import TINY, load_theirs, save_tiny, transformers
from tests.fakes import write_film
from vidret.encode.families.registry import load_encoder
from vidret.encode.families.transformers_models import MODEL_TYPES, read_preprocessing
from vidret.encode.model_hub import CONFIG, WEIGHTS, find_source
from vidret.encode.names import ModelName
from vidret.engine import Engine
from vidret.errors import AlignerError, EncoderError
from vidret.types import Frames
from vidret.video.audio import read_audio
from vidret.video.geometry import resize_image
from vidret.video.reader import read_frames

KINDS = list(TINY)
IMAGES = [kind for kind in KINDS if MODEL_TYPES[kind].num_frames is None]
VIDEOS = [kind for kind in KINDS if kind not in IMAGES]
PE = [kind for kind in VIDEOS if kind.startswith("pe_")]
TEXTS = ["a dog", "two cats.", "", "你好 dog"]
CANONICAL = {"a dog": "a dog.", "two cats.": "two cats.", "": ".", "你好 dog": "你好 dog."}  # VideoPrism's own helper


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return {kind: save_tiny(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@functools.cache
def load(folder: Path) -> Any:
    return load_encoder(f"hf:{folder}", device="cpu", precision="fp32")


@functools.cache
def load_processor(folder: Path) -> Any:
    return transformers.AutoProcessor.from_pretrained(folder)


def draw_frames(encoder: Any, num: int, seed: int = 0) -> tuple[np.ndarray, Frames]:
    """Return random images of the size before cropping, and the frames that the encoder sees of them."""
    side = encoder.resize.shorter
    images = np.random.default_rng(seed).integers(0, 256, (num, side, side, 3), dtype=np.uint8)
    return images, Frames(np.stack([resize_image(image, encoder.resize) for image in images]), np.arange(float(num)))


def unit(output: Any) -> np.ndarray:
    vectors = output if isinstance(output, torch.Tensor) else output.pooler_output
    return functional.normalize(vectors.flatten(1), dim=-1).detach().numpy()


def tokenize(kind: str, folder: Path, texts: list[str]) -> Any:
    padding: Any = "max_length" if MODEL_TYPES[kind].pads else True
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if kind == "videoprism":
        texts = [CANONICAL[text] for text in texts]
    return tokenizer(texts, padding=padding, truncation=True, max_length=TINY[kind].context, return_tensors="pt")


def test_every_type_is_tested() -> None:
    assert TINY.keys() == MODEL_TYPES.keys()


@torch.no_grad()
@pytest.mark.parametrize("kind", IMAGES)
def test_vectors_equal_those_of_the_library(kind: str, folders: Mapping[str, Path]) -> None:
    encoder, folder = load(folders[kind]), folders[kind]
    images, frames = draw_frames(encoder, 5)
    processor = load_processor(folder).image_processor
    model = load_theirs(folder)
    inputs = processor(images=list(images), return_tensors="pt")
    library_vectors = unit(model.get_image_features(**inputs))
    first, second = encoder.encode_frames(
        [Frames(frames.pixels[:3], frames.times[:3]), Frames(frames.pixels[3:], frames.times[3:])]
    )
    np.testing.assert_allclose(np.concatenate([first.frames, second.frames]), library_vectors, atol=1e-5)
    mean = library_vectors[:3].mean(0)
    np.testing.assert_allclose(first.video, mean / np.linalg.norm(mean), atol=1e-5)
    output = model(**inputs, **tokenize(kind, folder, TEXTS))
    np.testing.assert_allclose(library_vectors, unit(output.image_embeds), atol=1e-5)
    ours = np.stack([text.sentence for text in encoder.encode_text(TEXTS)])
    np.testing.assert_allclose(ours, unit(output.text_embeds), atol=1e-5)
    assert ours.shape[1] == encoder.dim


@torch.no_grad()
@pytest.mark.parametrize("kind", [kind for kind in VIDEOS if kind not in PE])
def test_videos_equal_those_of_the_library(kind: str, folders: Mapping[str, Path]) -> None:
    encoder, folder = load(folders[kind]), folders[kind]
    num_frames = encoder.sampling.num_frames
    _, frames = draw_frames(encoder, num_frames)
    preprocessing = read_preprocessing(kind, encoder_processor(folder))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    pixels = ((torch.from_numpy(frames.pixels).permute(0, 3, 1, 2) / 255 - mean) / std)[None]
    model = load_theirs(folder)
    key = "pixel_values" if kind == "xclip" else "pixel_values_videos"
    library_vector = unit(model.get_video_features(**{key: pixels}))[0]
    embedding = encoder.encode_frames([frames])[0]
    np.testing.assert_allclose(embedding.video, library_vector, atol=1e-5)
    np.testing.assert_allclose(embedding.frames, np.tile(library_vector, (num_frames, 1)), atol=1e-5)
    ours = np.stack([text.sentence for text in encoder.encode_text(TEXTS)])
    np.testing.assert_allclose(ours, unit(model.get_text_features(**tokenize(kind, folder, TEXTS))), atol=1e-5)
    check_short_segments(encoder, frames)


def check_short_segments(encoder: Any, frames: Frames) -> None:
    num_frames = len(frames)
    short = Frames(frames.pixels[:1], frames.times[:1])
    still = Frames(np.repeat(frames.pixels[:1], num_frames, axis=0), frames.times)
    alone, repeated = encoder.encode_frames([short, still])
    np.testing.assert_allclose(alone.video, repeated.video, atol=1e-6)
    assert alone.frames.shape == (1, encoder.dim)


@torch.no_grad()
@pytest.mark.parametrize("kind", PE)
def test_pe_videos_equal_those_of_the_library(kind: str, folders: Mapping[str, Path]) -> None:
    """The frames are chosen by the model's own processor, and all outputs are those of its whole forward."""
    encoder, folder = load(folders[kind]), folders[kind]
    assert encoder.sampling.num_frames == 4
    _, frames = draw_frames(encoder, 7)
    processor, metadata = encoder_processor(folder), {"total_num_frames": 7, "fps": 1}
    inputs = processor(frames.pixels, video_metadata=metadata, return_tensors="pt")
    assert inputs["pixel_values_videos"].shape == (1, 4, 3, 32, 32)
    tokens = tokenize(kind, folder, TEXTS)
    inputs = {"pixel_values_videos": inputs["pixel_values_videos"].repeat(len(TEXTS), 1, 1, 1, 1), **tokens}
    names = ("video_embeds", "text_video_embeds")
    if kind == "pe_audio_video":
        frames = replace(frames, sound=draw_sound(501))
        heard = listen(folder, [frames])
        inputs |= {key: heard[key].repeat(len(TEXTS), *[1] * (heard[key].ndim - 1)) for key in heard}
        names = ("audio_video_embeds", "text_audio_video_embeds")
    output = load_theirs(folder)(**inputs)
    embedding = encoder.encode_frames([frames])[0]
    np.testing.assert_allclose(embedding.video, unit(output[names[0]])[0], atol=1e-5)
    texts = encoder.encode_text(TEXTS)
    np.testing.assert_allclose(np.stack([text.sentence for text in texts]), unit(output[names[1]]), atol=1e-5)
    assert texts[0].words.shape == (4, encoder.dim)
    check_short_segments(encoder, Frames(frames.pixels[:4], frames.times[:4]))


def draw_sound(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9000, 9000, num).astype(np.int16)


def listen(folder: Path, batch: list[Frames]) -> Any:
    """Return what the model's own processor makes of sounds."""
    listener = load_processor(folder).feature_extractor
    sounds = [np.asarray(frames.sound, np.float32) / 32768 for frames in batch]
    return listener(sounds, sampling_rate=listener.sampling_rate, return_tensors="pt")


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_model_that_hears_mixes_no_sounds(dtype: str, folders: Mapping[str, Path]) -> None:
    """A batch of segments with sounds of any length gives each the library's vector of it alone."""
    folder = folders["pe_audio_video"]
    encoder = load_encoder(f"hf:{folder}", device="cpu", precision=dtype)
    kind = torch.float32 if dtype == "fp32" else torch.bfloat16
    model, processor = load_theirs(folder).to(kind), encoder_processor(folder)
    lengths = [4, 501, 1, 501]
    batch = [
        replace(draw_frames(encoder, 4, seed)[1], sound=draw_sound(length, seed)) for seed, length in enumerate(lengths)
    ]
    one_by_one = [encoder.encode_frames([frames])[0] for frames in batch]
    found = encoder.encode_frames(batch) if dtype == "fp32" else one_by_one  # in bf16 a batch rounds in another way
    for frames, embedding in zip(batch, found, strict=True):
        assert frames.sound is not None
        pixels = processor(frames.pixels, return_tensors="pt", do_sample_frames=False)["pixel_values_videos"]
        padded = replace(frames, sound=np.pad(frames.sound, (0, max(0, 4 - len(frames.sound)))))
        heard = listen(folder, [padded])
        heard["input_values"] = heard["input_values"].to(kind)
        output = model.get_audio_video_embeds(pixel_values_videos=pixels.to(kind), **heard)
        library_vector = unit(output.audio_video_embeds.float())[0]
        if dtype == "fp32":
            np.testing.assert_allclose(embedding.video, library_vector, atol=1e-5)
        assert 1 - embedding.video @ library_vector < 1e-4
    quiet = replace(batch[0], sound=np.zeros(400, np.int16))
    silent, none = encoder.encode_frames([quiet, replace(quiet, sound=None)])
    np.testing.assert_allclose(silent.video, none.video, atol=1e-6 if dtype == "fp32" else 0.02)
    assert found[0].video @ silent.video < 0.999


def add_sound(film: Path, sound: np.ndarray) -> Path:
    """Write a copy of a film with a track of mono samples at 48 kHz."""
    path = film.with_suffix(".mkv")
    with av.open(str(film)) as source, av.open(str(path), "w") as out:
        video = out.add_stream_from_template(source.streams.video[0])
        track: Any = out.add_stream("pcm_s16le", rate=48_000, layout="mono")
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                out.mux(packet)
        frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return path


@torch.no_grad()
@pytest.mark.parametrize("shots", [True, False])
def test_an_index_hears_each_segment(folders: Mapping[str, Path], tmp_path: Path, *, shots: bool) -> None:
    """Two films that look alike and sound unlike get vectors of their own: those of their frames and sound."""
    encoder = load(folders["pe_audio_video"])
    mute = write_film(tmp_path / "a.mp4", ("red", 3), ("blue", 5))
    seconds = np.arange(8 * 48_000) / 48_000
    heard = add_sound(mute, (25_000 * np.sin(2 * np.pi * (10 + 10 * seconds) * seconds)).astype(np.int16))
    rate = encoder.sampling.sound_rate
    sound = np.concatenate([samples for _, samples in read_audio(str(heard), rate)])
    sound = np.pad(np.rint(sound * 32768).astype(np.int16), (0, rate))
    engine = Engine(tmp_path / "index", encoder)
    assert not engine.index([mute, heard], workers=1, shots=shots, words=False).failed
    rows = engine.embeddings("segment")
    by_path = {path: rows.vectors[[p == path for p in rows.paths]] for path in (str(mute), str(heard))}
    assert not np.allclose(by_path[str(mute)], by_path[str(heard)], atol=1e-3)
    spans = rows.times[[path == str(heard) for path in rows.paths]]
    for (start, end), vector in zip(spans, by_path[str(heard)], strict=True):
        frames = read_frames(str(heard), times=np.arange(start + 0.5, end, 1.0), resize=encoder.resize)
        segment_sound = sound[round(start * rate) : round(end * rate)]
        expected = encoder.encode_frames([replace(frames, sound=segment_sound)])[0].video
        np.testing.assert_allclose(vector, expected, atol=2e-3)  # stored as float16


def test_a_pe_model_of_all_frames_sees_some(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny("pe_video", tmp_path)
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["video_processor"] |= {"num_frames": None, "do_sample_frames": False}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    capsys.readouterr()
    with caplog.at_level(logging.WARNING):
        assert load(folder).sampling.num_frames == 16
    assert f"{folder} was trained on all frames of a video; it sees 16 of each segment" in caplog.text
    assert capsys.readouterr().out == ""


def encoder_processor(folder: Path) -> Any:
    processor = load_processor(folder)
    parts = (getattr(processor, attribute, None) for attribute in ("image_processor", "video_processor"))
    return next(filter(None, parts), None) or transformers.AutoImageProcessor.from_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_the_models_own_processor(kind: str, folders: Mapping[str, Path]) -> None:
    encoder, processor = load(folders[kind]), encoder_processor(folders[kind])
    images, frames = draw_frames(encoder, 2)
    video = {"do_sample_frames": False} if kind in PE else {}
    video_native = kind == "videoprism" or kind in PE
    processed = processor(images if video_native else list(images), return_tensors="pt", **video)
    values = next(value for key, value in processed.items() if key.startswith("pixel_values"))
    preprocessing = read_preprocessing(kind, processor)
    ours = (frames.pixels / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    if kind == "siglip2":  # rows of patches
        ours = ours.reshape(2, 4, 8, 4, 8, 3).swapaxes(2, 3).reshape(2, 16, -1)
    else:
        ours = ours.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(ours.ravel(), values.numpy().ravel(), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", IMAGES)
def test_a_patch_is_what_the_model_pools_of_it_alone(kind: str, folders: Mapping[str, Path]) -> None:
    """Where the pooling is an attention or a mean, an image of equal patches is pooled to their vector."""
    encoder = load(folders[kind])
    _, frames = draw_frames(encoder, 2)
    embedding = encoder.encode_frames([frames], tokens=True)[0]
    assert embedding.tokens.shape[1] == encoder.dim
    assert len(embedding.tokens) % 2 == 0
    np.testing.assert_allclose(np.linalg.norm(embedding.tokens, axis=1), 1, atol=1e-5)
    model, model_type = encoder._model, MODEL_TYPES[kind]
    assert model_type.patches is not None
    states = torch.randn(1, 1, 32).repeat(1, 4, 1)
    if kind.startswith("siglip"):
        output = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=states)
        torch.testing.assert_close(model_type.patches(model, output)[0, 2], model.vision_model.head(states)[0])
    elif kind == "align":
        loaded = torch.from_numpy(embedding.tokens).reshape(2, -1, encoder.dim)
        assert not torch.equal(loaded[:, 0], loaded[:, 1])
    else:
        cut = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=states)
        class_token = model.visual_projection(model.vision_model.post_layernorm(states[:, 0]))
        torch.testing.assert_close(model_type.patches(model, cut)[0, 2], class_token[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_is_split_with_a_note(
    kind: str, folders: Mapping[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    encoder = load(folders[kind])
    sentences = [f"{word * 5}." for word in ("ab", "cd", "ef", "gh", "ij", "kl", "mn")]
    text = " ".join(sentences)
    with caplog.at_level(logging.WARNING):
        embedding = encoder.encode_text([text])[0]
    assert f"reads {TINY[kind].context} tokens, so a text is split into" in caplog.text
    assert float(np.linalg.norm(embedding.sentence)) == pytest.approx(1, abs=1e-5)
    assert not np.allclose(embedding.sentence, encoder.encode_text([sentences[0]])[0].sentence, atol=1e-3)
    caplog.clear()
    encoder.encode_text(["a dog"])
    assert not caplog.records


def test_images_are_indexed_searched_and_located(folders: Mapping[str, Path], tmp_path: Path) -> None:
    film = write_film(tmp_path / "films/a.mp4", ("red", 5), ("blue", 5))
    write_film(tmp_path / "films/b.mp4", ("green", 4))
    name = f"hf:{folders['siglip2']}"
    with Engine.open(tmp_path / "index", encoder=name, device="cpu", rerank="ucofia") as engine:
        assert not engine.index([tmp_path / "films"], workers=1).failed
    with Engine.open(tmp_path / "index", device="cpu") as engine:
        assert engine.encoder.name == name
        assert len(engine.search("a dog")) == 2
        moments = engine.locate("a dog", video=film, weak=True)
        assert all(0 <= moment.start < moment.end <= 10.1 for moment in moments)
        assert moments


def test_a_video_native_model_says_what_it_cannot(
    folders: Mapping[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = load(folders["xclip"])
    with pytest.raises(AlignerError, match=r"rerank must be none or mean for hf:.*one vector per segment, got ucofia"):
        Engine(tmp_path / "index", encoder, rerank="ucofia")
    with pytest.raises(EncoderError, match="tokens must come from a model with patches, got hf:"):
        encoder.encode_frames([draw_frames(encoder, 4)[1]], tokens=True)
    film = write_film(tmp_path / "a.mp4", ("red", 4), ("blue", 4))
    engine = Engine(tmp_path / "index", encoder)
    engine.index([film], workers=1, shots=False)
    vidret.search.locating.note_coarse.cache_clear()
    with caplog.at_level(logging.WARNING):
        engine.locate("a dog", video=film, weak=True)
    assert "moments begin and end with segments: hf:" in caplog.text


# What cannot be loaded.


def fail(name: str) -> str:
    with pytest.raises(EncoderError) as caught:
        load_encoder(name, device="cpu", precision="fp32")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mark", ["dims", "pixels"])
def test_sizes_that_a_model_does_not_offer_are_refused(folders: Mapping[str, Path], mark: str) -> None:
    assert f"{mark} must not be given for hf:" in fail(f"hf:{folders['clip']}#{mark}=64")


def test_wrong_names_and_folders(tmp_path: Path) -> None:
    assert "must be hf:org/name or hf: with an existing folder" in fail("hf:/gone/away")
    assert "must be hf:org/name" in fail("hf:name")
    assert "got no folder ~nobody here/x" in fail("hf:~nobody here/x")
    assert "repository must be org/name of the model hub, got org/a name" in fail("hf:org/a name")
    assert f"{tmp_path}: must hold the config.json" in fail(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "one of the types clip, metaclip_2, altclip" in fail(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text("no json")
    assert "cannot be loaded: " in fail(f"hf:{tmp_path}")


def test_wrong_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_tiny("clip", tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "1 weight missing: visual_projection.weight" in fail(f"hf:{folder}")
    (folder / "model.safetensors").write_bytes(b"x" * 99)
    assert "cannot be loaded: " in fail(f"hf:{folder}")


def test_code_in_a_folder_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "sprung"
    (tmp_path / "trap.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    code = {"AutoConfig": "trap.Config", "AutoModel": "trap.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "trap", "auto_map": code}))
    fail(f"hf:{tmp_path}")
    assert not mark.exists()


def test_a_hub_out_of_reach_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "its files are not on this machine and HF_HUB_OFFLINE is set" in fail("hf:org/name")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def wait() -> str:
        time.sleep(10)
        return ""

    monkeypatch.setattr("vidret.encode.model_hub._ask_hub", wait)
    monkeypatch.setattr("vidret.encode.model_hub.HUB_TIMEOUT_S", 0.1)
    began = time.monotonic()
    assert "no answer within 0.1 s" in fail("hf:org/name")
    assert time.monotonic() - began < 5  # a machine may be busy


def test_a_cached_model_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "/a/file")
    assert find_source(ModelName("hf:org/name"), [CONFIG], WEIGHTS) == ("org/name", True)
