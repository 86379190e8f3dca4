"""CLIP encoders: vectors equal to open_clip's, loading from names and files, and errors of loading."""

import io
import json
import logging
import pickle
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from tests.encode.tiny import MERGING, assert_same_embeddings, draw_frames, load_clip, save_clip, stir
from vidret.encode.clip.encoder import ClipEncoder
from vidret.encode.clip.model import ClipModel
from vidret.encode.clip.weights import from_open_clip
from vidret.encode.encoder import Encoder
from vidret.encode.families.clip import derive_card
from vidret.encode.families.open_clip import OpenClipEncoder
from vidret.encode.families.registry import load_encoder
from vidret.encode.names import ModelName
from vidret.encode.open_clip_models import read_resize
from vidret.errors import EncoderError
from vidret.types import Frames, Resize

CPU = torch.device("cpu")
TINY, TWIN, POOLED = "vidret-tiny", "vidret-twin", "vidret-coca"
TEXTS = ["a dog on a beach", "", "two people ride bikes past a parked car", "Dog!"]


def config(dim: int, **more: Any) -> dict[str, Any]:
    """Return the config of a ViT with two layers and sizes that no published model has."""
    vision = {"image_size": 32, "layers": 2, "width": 72, "head_width": 24, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
    return {"embed_dim": dim, "vision_cfg": vision, "text_cfg": text, **more}


@pytest.fixture(scope="module", autouse=True)
def _architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("architectures")
    twins = {TWIN: config(52), f"{TWIN}-quickgelu": config(52, quick_gelu=True)}
    pooled = config(
        44, multimodal_cfg={"width": 64, "heads": 2, "layers": 1, "context_length": 76, "vocab_size": 49408}
    )
    pooled["text_cfg"] |= {"context_length": 76, "embed_cls": True, "output_tokens": True}
    pooled["vision_cfg"] |= {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    for name, settings in {TINY: config(44), **twins, POOLED: pooled | {"custom_text": True}}.items():
        (folder / f"{name}.json").write_text(json.dumps(settings))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return open_clip.create_model(TINY).eval()


@pytest.fixture(scope="module")
def weights(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def encoder(weights: Path) -> Encoder:
    return load_clip(f"{TINY}/{weights}")


def ours(model: Any) -> ClipModel:
    """Return a ``ClipModel`` with the weights of an open_clip model."""
    card = derive_card(TINY, open_clip.get_model_config(TINY), {})
    assert card is not None
    return from_open_clip(model.state_dict(), card)


def unit(vectors: torch.Tensor) -> np.ndarray:
    return np.asarray((vectors / vectors.norm(dim=-1, keepdim=True)).numpy())


def naive_images(frames: Frames) -> torch.Tensor:
    """Normalise each frame as open_clip's preprocessing does after resizing."""
    mean, std = np.array(open_clip.OPENAI_DATASET_MEAN), np.array(open_clip.OPENAI_DATASET_STD)
    images = [((picture / 255 - mean) / std).transpose(2, 0, 1) for picture in frames.pixels]
    return torch.from_numpy(np.stack(images)).float()


@torch.no_grad()
def test_frames_equal_open_clip(encoder: Encoder, model: Any) -> None:
    frames = draw_frames(5)
    for tokens in (False, True):
        (embedding,) = encoder.encode_frames([frames], tokens=tokens)
        expected = unit(model.encode_image(naive_images(frames)))
        np.testing.assert_allclose(embedding.frames, expected, atol=1e-5)
        np.testing.assert_allclose(embedding.video, unit(torch.from_numpy(expected).mean(0)), atol=1e-5)
        assert embedding.times is frames.times
        assert (embedding.tokens is not None) == tokens


@torch.no_grad()
def test_sentences_equal_open_clip(encoder: Encoder, model: Any) -> None:
    expected = unit(model.encode_text(open_clip.get_tokenizer(TINY)(TEXTS)))
    for embedding, text, vector in zip(encoder.encode_text(TEXTS), TEXTS, expected, strict=True):
        assert embedding.text == text
        np.testing.assert_allclose(embedding.sentence, vector, atol=1e-5)


class PaddedWords:
    """A tokenizer like SigLIP's: no start token, and padding with the end token."""

    pad_token_id = 1

    @property
    def tokenizer(self) -> "PaddedWords":
        return self

    def __call__(self, texts: Sequence[str], context_length: int = 77) -> torch.Tensor:
        rows = [[9 + len(word) for word in text.split()][:context_length] for text in texts]
        return torch.tensor([[*row, *[1] * (context_length - len(row))] for row in rows])


def test_words_without_a_start_token_are_all_kept(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    other = OpenClipEncoder("other", model, PaddedWords(), device=CPU, dtype=torch.float32)
    with caplog.at_level(logging.WARNING, "vidret"):
        lengths = [len(text.words) for text in other.encode_text(["one two three", "", "much longer than these"])]
        lengths.append(len(other.encode_text(["word " * 77])[0].words))
    assert lengths == [3, 1, 4, 77]
    assert not caplog.records


@torch.no_grad()
def test_a_model_with_attention_pooling_has_no_tokens() -> None:
    pooled = load_encoder(f"{POOLED}/random", device="cpu", precision="fp32")
    assert isinstance(pooled, OpenClipEncoder)
    (embedding,) = pooled.encode_frames([draw_frames(2)])
    expected = unit(pooled._model.encode_image(naive_images(draw_frames(2))))
    np.testing.assert_allclose(embedding.frames, expected, atol=1e-5)
    assert [text.words.shape for text in pooled.encode_text(["a dog"])] == [(2, 44)]
    with pytest.raises(
        EncoderError, match="tokens must come from a ViT with a projection or a trunk of timm, got vidret-coca"
    ):
        pooled.encode_frames([draw_frames(2)], tokens=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_files_load_with_and_without_an_architecture(
    encoder: Encoder, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path, state = tmp_path / f"weights{suffix}", model.state_dict()
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    monkeypatch.chdir(tmp_path)
    expected = encoder.encode_frames([draw_frames(2)])[0].frames
    for name in (f"{TINY}/{path}", f"{TINY}/weights{suffix}", str(path), f"weights{suffix}", f"./weights{suffix}"):
        loaded = load_clip(name)
        np.testing.assert_array_equal(loaded.encode_frames([draw_frames(2)])[0].frames, expected)
        assert loaded.fingerprint == encoder.fingerprint
        assert loaded.scale == pytest.approx(float(state["logit_scale"].exp()))
        # An index stores this name and may be opened from another folder.
        assert ModelName(loaded.name).weights == str(path)


def test_ambiguous_shapes_need_an_architecture(tmp_path: Path) -> None:
    path = tmp_path / "twin.safetensors"
    save_file(open_clip.create_model(TWIN).state_dict(), path)
    with pytest.raises(EncoderError, match=f"fits {TWIN}, {TWIN}-quickgelu; write {TWIN}/"):
        load_clip(str(path))
    assert load_clip(f"{TWIN}-quickgelu/{path}").dim == 52


@torch.no_grad()
@pytest.mark.parametrize(("side", "dtype"), [(32, torch.float16), (48, torch.float32)])
def test_half_precision_and_resized_positions_load_as_open_clip_loads_them(
    model: Any, tmp_path: Path, side: int, dtype: torch.dtype
) -> None:
    name, path = f"vidret-side-{side}", tmp_path / "weights.safetensors"
    wider = config(44)
    wider["vision_cfg"] |= {"image_size": side}
    (tmp_path / f"{name}.json").write_text(json.dumps(wider))
    open_clip.add_model_config(tmp_path)
    save_file({key: weight.to(dtype) for key, weight in model.state_dict().items()}, path)
    loaded = load_clip(f"{name}/{path}")
    other = open_clip.create_model(name, pretrained=str(path)).state_dict()
    expected = from_open_clip(other, loaded.card).state_dict()
    for key, weight in loaded._model.state_dict().items():
        assert torch.equal(weight, expected[key])


SETTINGS: list[tuple[dict[str, Any], dict[str, Any], bool]] = [  # of a vision and a text tower; whether we run them
    ({}, {}, True),
    ({"patch_dropout": 0.5, "mlp_ratio": 2.5, "pool_type": "tok"}, {"mlp_ratio": 3, "pool_type": "argmax"}, True),
    ({"norm_kwargs": {}, "act_kwargs": None, "block_type": "default"}, {"ls_init_value": None, "pad_id": 1}, True),
    ({"act_kwargs": {"approximate": "tanh"}}, {}, False),
    ({"norm_kwargs": {"eps": 0.1}}, {}, False),
    ({"ls_init_value": 0.5}, {}, False),
    ({"no_ln_pre": True}, {}, False),
    ({"pool_type": "avg", "final_ln_after_pool": True}, {}, False),
    ({"qk_norm": True}, {}, False),
    ({}, {"norm_kwargs": {"eps": 0.1}}, False),
    ({}, {"no_causal_mask": True}, False),
    ({}, {"pool_type": "last"}, False),
    ({}, {"tokenizer_kwargs": {"clean": "canonicalize"}}, False),
]


@torch.no_grad()
@pytest.mark.parametrize(("vision", "text", "is_ours"), SETTINGS)
def test_each_tower_setting_acts(vision: dict[str, Any], text: dict[str, Any], is_ours: bool, tmp_path: Path) -> None:
    name = f"vidret-set-{tmp_path.name}"
    settings = config(44)
    settings["vision_cfg"] |= vision
    settings["text_cfg"] |= text
    (tmp_path / f"{name}.json").write_text(json.dumps(settings))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    other = open_clip.create_model(name).eval()
    stir(other)
    save_file(other.state_dict(), tmp_path / "weights.safetensors")
    loaded = load_encoder(f"{name}/{tmp_path / 'weights.safetensors'}", device="cpu", precision="fp32")
    assert isinstance(loaded, ClipEncoder) == is_ours
    (embedding,) = loaded.encode_frames([draw_frames(3)])
    np.testing.assert_allclose(embedding.frames, unit(other.encode_image(naive_images(draw_frames(3)))), atol=1e-5)
    expected = unit(other.encode_text(open_clip.get_tokenizer(name)(TEXTS)))
    np.testing.assert_allclose([text.sentence for text in loaded.encode_text(TEXTS)], expected, atol=1e-5)


def make_folder(folder: Path, state: dict[str, torch.Tensor] | None, **preprocess: Any) -> str:
    """Write a model as the hub holds it, without weights if ``state`` is None; return its name."""
    described = {"model_cfg": config(44), "preprocess_cfg": {"size": 99, "mean": None, **preprocess}}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    if state is not None:
        save_file(state, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def test_a_folder_loads_with_its_preprocessing(model: Any, encoder: Encoder, tmp_path: Path) -> None:
    name = make_folder(tmp_path, model.state_dict(), std=[0.5, 0.25, 1], interpolation="bilinear")
    loaded = load_clip(name)
    assert (loaded.name, loaded.card.backbone) == (name, name)
    assert loaded.resize == Resize(32, 32, "bilinear")
    assert (loaded.card.mean, loaded.card.std) == (open_clip.OPENAI_DATASET_MEAN, (0.5, 0.25, 1))
    for text, other in zip(loaded.encode_text(TEXTS), encoder.encode_text(TEXTS), strict=True):
        np.testing.assert_array_equal(text.sentence, other.sentence)
    squashed = load_encoder(make_folder(tmp_path, None, resize_mode="squash"), device="cpu", precision="fp32")
    assert isinstance(squashed, OpenClipEncoder)
    assert squashed.resize.squash


def test_a_cached_repository_loads_as_its_folder(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--org--name/snapshots/0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--name/refs").mkdir()
    (tmp_path / "models--org--name/refs/main").write_text("0123")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = load_clip(make_folder(snapshot, model.state_dict(), mean=[0.5, 0.5, 0.25]))
    loaded = load_clip("hf-hub:org/name")
    assert loaded.name == loaded.card.backbone == "hf-hub:org/name"
    assert replace(loaded.card, backbone=folder.card.backbone) == folder.card
    np.testing.assert_array_equal(loaded.encode_text(TEXTS)[0].sentence, folder.encode_text(TEXTS)[0].sentence)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_a_folder_without_weights_is_rejected_rather_than_drawn_at_random(mode: str, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"local-dir:.* cannot be loaded: Required pretrained weights"):
        load_encoder(make_folder(tmp_path, None, resize_mode=mode), device="cpu")


def test_a_tag_sets_preprocessing_and_its_activation_is_checked(
    weights: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tag = {"file": str(weights), "mean": (0.1, 0.2, 0.3), "std": (1, 2, 3), "interpolation": "bilinear"}
    tags = {"plain": tag, "quick": {**tag, "quick_gelu": True}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, TINY, tags)
    with caplog.at_level(logging.WARNING, "vidret"):
        plain = load_clip(f"{TINY}/plain")
        assert not caplog.records
        load_clip(f"{TINY}/quick")
    expected = f"{TINY}/quick: its weights were trained with QuickGELU, which its architecture lacks"
    assert [record.getMessage() for record in caplog.records] == [expected]
    assert (plain.card.mean, plain.card.std, plain.card.interpolation) == ((0.1, 0.2, 0.3), (1, 2, 3), "bilinear")
    np.testing.assert_array_equal(plain.encode_text(TEXTS)[0].sentence, encoder.encode_text(TEXTS)[0].sentence)


class Trap:
    """An object whose unpickling creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def spoiled(kind: str, folder: Path, state: dict[str, torch.Tensor]) -> Path:
    path = folder / f"{kind}.pt"
    if kind == "trap":
        torch.save({**state, "more": Trap(folder / "sprung")}, path)
    elif kind == "bare_pickle":
        path.write_bytes(pickle.dumps(Trap(folder / "sprung")))
    elif kind == "noise":
        path.write_bytes(bytes(range(256)) * 8)
    elif kind == "empty":
        path.touch()
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "no_tensors":
        torch.save({"weight": 1}, path)
    elif kind == "torn":
        buffer = io.BytesIO()
        torch.save(state, buffer)
        path.write_bytes(buffer.getvalue()[:-5000])
    else:
        path = path.with_suffix(".safetensors")
        save_file(state, path)
        path.write_bytes(path.read_bytes()[:-5000] if kind == "torn_safetensors" else b"\xff" * 100)
    return path


@pytest.mark.parametrize(
    "kind",
    ["trap", "bare_pickle", "noise", "empty", "list", "no_tensors", "torn", "torn_safetensors", "noise_safetensors"],
)
def test_a_corrupt_file_is_rejected_in_one_line_and_never_executed(kind: str, tmp_path: Path, model: Any) -> None:
    path = spoiled(kind, tmp_path, model.state_dict())
    for name in (str(path), f"{TINY}/{path}"):
        with pytest.raises(EncoderError, match=r"must be a readable file of nothing but named tensors: \S") as caught:
            load_clip(name)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        assert "trust" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()


def test_mismatched_weights_are_reported_by_name(tmp_path: Path, model: Any) -> None:
    path = tmp_path / "odd.pt"
    torch.save({**model.state_dict(), "text_projection": torch.zeros(64, 40)}, path)
    with pytest.raises(EncoderError, match=r"cannot be loaded: .*size mismatch for text_projection"):
        load_clip(f"{TINY}/{path}")
    with pytest.raises(EncoderError, match="fits no CLIP ViT that open_clip knows; write ARCHITECTURE/PATH"):
        load_clip(str(path))
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(EncoderError, match=r"cannot be loaded: .*Missing key") as caught:
        load_clip(f"{TINY}/{path}")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nonsense", "model must be starter, small, good, best, video, multilingual, an open_clip name"),
        ("ViT-B32/openai", "got ViT-B32/openai; did you mean ViT-B-32/openai?"),
        ("startr", "did you mean starter?"),
        ("runs/last.ckpt", "got runs/last.ckpt; vidret train export writes the model of a checkpoint"),
        ("", "model must be starter"),
        ("nonsense/openai", "model must be starter"),
        ("ViT-B-32", "weights of ViT-B-32 must be one of openai, .* or a file, got ''"),
        ("ViT-B-32/nonsense", "weights of ViT-B-32 must be one of openai, .* or a file, got 'nonsense'"),
        (TINY, "weights of vidret-tiny must be a file, got ''"),
        (f"{TINY}//gone/weights.pt", "no such file: /gone/weights.pt"),
        ("/gone/weights.safetensors", "/gone/weights.safetensors: no such file"),
        ("local-dir:/gone", "local-dir:/gone cannot be loaded: No such file"),
        ("hf-hub:org/name/more", "repository must be org/name of the model hub, got org/name/more"),
    ],
)
def test_an_unknown_name_is_rejected(name: str, reason: str) -> None:
    with pytest.raises(EncoderError, match=reason) as caught:
        load_clip(name)
    assert "\n" not in str(caught.value)


@pytest.fixture
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)


UNCACHED = ["ViT-B-32/laion2b_s34b_b79k", "ViT-B-32/openai", "hf-hub:org/name"]


@pytest.mark.usefixtures("_no_cache")
@pytest.mark.parametrize("name", UNCACHED)
def test_offline_mode_makes_no_requests(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("the network was asked"))
    expected = f"{name}: its files are not on this machine and HF_HUB_OFFLINE is set; download them elsewhere and "
    with pytest.raises(EncoderError, match=re.escape(expected)):
        load_clip(name)


@pytest.mark.usefixtures("_no_cache")
@pytest.mark.parametrize("name", UNCACHED)
def test_an_unreachable_hub_fails_fast(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: urllib.request.Request, *, timeout: float) -> None:
        assert timeout <= 5
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    for download in ("download_pretrained", "download_pretrained_from_hf"):
        monkeypatch.setattr(open_clip.pretrained, download, lambda *_, **__: pytest.fail("a download was tried"))
    with pytest.raises(EncoderError, match=r"the model hub cannot be reached \(no route to host\); download them"):
        load_clip(name)


@pytest.mark.usefixtures("_no_cache")
def test_a_reachable_hub_reports_its_own_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: urllib.request.Request, *, timeout: float) -> None:
        raise urllib.error.HTTPError(request.full_url, 403, "Forbidden", None, None)  # type: ignore[arg-type]

    def download(*_: object, **__: object) -> None:
        raise OSError("repository not found\nsee the manual")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "urlopen", answer)
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", download)
    with pytest.raises(EncoderError, match="ViT-B-32/openai cannot be loaded: repository not found see the manual"):
        load_clip("ViT-B-32/openai")


@pytest.mark.parametrize(
    ("preprocess", "resize"),
    [
        ({"size": 224}, Resize(224, 224, "bicubic")),
        ({"size": (336, 336), "interpolation": "bilinear"}, Resize(336, 336, "bilinear")),
        ({"size": [256, 256], "resize_mode": "squash", "interpolation": "bicubic"}, Resize(256, 256, squash=True)),
    ],
)
def test_preprocessing_is_read(preprocess: dict[str, Any], resize: Resize) -> None:
    assert read_resize("m", preprocess) == resize


@pytest.mark.parametrize(
    "preprocess",
    [{"size": (224, 336)}, {"size": 224, "resize_mode": "longest"}, {"size": 224, "interpolation": "random"}],
)
def test_unsupported_preprocessing_is_rejected(preprocess: dict[str, Any]) -> None:
    with pytest.raises(EncoderError, match="m: preprocessing must be a square crop, got 224x"):
        read_resize("m", preprocess)


@torch.no_grad()
def test_both_encoders_agree_on_a_plain_model(model: Any) -> None:
    tokenizer = open_clip.get_tokenizer(TINY)
    foreign = OpenClipEncoder("tiny", model, tokenizer, device=CPU, dtype=torch.float32)
    native = ClipEncoder("tiny", ours(model), tokenizer, device=CPU, dtype=torch.float32)
    assert_same_embeddings(*(encoder.encode_frames([draw_frames(3)], tokens=True) for encoder in (foreign, native)))
    for text, other in zip(foreign.encode_text(TEXTS), native.encode_text(TEXTS), strict=True):
        np.testing.assert_allclose(text.sentence, other.sentence, atol=1e-5)
        np.testing.assert_allclose(text.words, other.words, atol=1e-5)


def test_a_model_that_merges_over_time_can_be_told_more_frames(tmp_path: Path) -> None:
    path = save_clip(tmp_path / "tempme.safetensors", std=0.1, merging=MERGING)
    long_encoder, frames = load_clip(f"{path}#frames=24"), [draw_frames(24)]
    assert long_encoder.sampling.num_frames == 24
    assert_same_embeddings(long_encoder.encode_frames(frames), load_clip(path).encode_frames(frames))


@pytest.mark.slow
@pytest.mark.compiles
def test_a_compiled_tower_gives_the_same_vectors(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load_clip(f"{TINY}/{weights}")
    monkeypatch.setenv("VIDRET_COMPILE", "eager")  # traced, and run as it is
    compiled = load_clip(f"{TINY}/{weights}")
    for frames in (draw_frames(3), draw_frames(5, seed=1)):
        ones, others = (encoder.encode_frames([frames], tokens=True) for encoder in (plain, compiled))
        assert_same_embeddings(ones, others, atol=1e-6)
    assert compiled.fingerprint == plain.fingerprint
    assert compiled._model.vision._compiled_call_impl is not None


def test_an_unknown_compiler_is_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDRET_COMPILE", "magic")
    with pytest.raises(EncoderError, match=r"VIDRET_COMPILE must be one of .*inductor.*, got magic"):
        load_clip(f"{TINY}/{weights}")
