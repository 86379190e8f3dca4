"""open_clip's other towers: trunks of timm give patches, text towers of transformers give words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from torch.nn import functional

from tests.encode.hf_models import TEXT, make_tokenizer, transformers
from tests.encode.tiny import draw_frames
from vidret.encode.families.open_clip import fuse_branches
from vidret.encode.families.registry import load_encoder
from vidret.errors import EncoderError, MissingExtraError

TEXT_TOWER = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
TRUNKS = {
    "mean": ("test_vit", {"timm_pool": "avg", "timm_proj": "linear"}),
    "class": ("test_vit", {"timm_pool": "token", "timm_proj": "linear"}),
    "attention": ("test_vit", {"timm_pool": "map", "timm_proj": "none"}),
    "map": ("test_convnext", {"timm_pool": "avg", "timm_proj": "linear"}),
}


@pytest.fixture(scope="module", autouse=True)
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Register architectures, and return the folder of a text tower of transformers."""
    folder, configs = tmp_path_factory.mktemp("text"), tmp_path_factory.mktemp("architectures")
    words = {**TEXT, "max_position_embeddings": 90, "type_vocab_size": 1}
    transformers.XLMRobertaConfig(**words).save_pretrained(folder)
    make_tokenizer(40).save_pretrained(folder)
    for name, (trunk, settings) in TRUNKS.items():
        vision = {"image_size": 160, "timm_model_name": trunk, "timm_model_pretrained": False, **settings}
        config = {"embed_dim": 64, "vision_cfg": vision, "text_cfg": TEXT_TOWER, "custom_text": True}
        (configs / f"vidret-{name}.json").write_text(json.dumps(config))
    tower = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_model_pretrained": False}
    tower |= {"hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp", "context_length": 40}
    multilingual = {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": tower, "custom_text": True}
    (configs / "vidret-xlm.json").write_text(json.dumps(multilingual))
    tower = {**TEXT_TOWER, "hf_tokenizer_name": "org/gone"}
    (configs / "vidret-gone.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": VIT, "text_cfg": tower}))
    open_clip.add_model_config(configs)
    return folder


def load(name: str) -> Any:
    return load_encoder(f"vidret-{name}/random", device="cpu", precision="fp32")


@torch.no_grad()
@pytest.mark.parametrize("name", ["mean", "class", "attention", "map"])
def test_a_trunk_of_timm_gives_patches(name: str) -> None:
    encoder = load(name)
    frames = draw_frames(2, side=encoder.resize.crop)
    plain, embedding = (encoder.encode_frames([frames], tokens=tokens)[0] for tokens in (False, True))
    np.testing.assert_allclose(embedding.frames, plain.frames, atol=1e-5)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (encoder._mean, encoder._std))
    images = (torch.tensor(frames.pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    library_vectors = functional.normalize(encoder._model.encode_image(images), dim=-1)
    np.testing.assert_allclose(plain.frames, library_vectors, atol=1e-5)
    assert embedding.tokens.shape == (2 * (len(embedding.tokens) // 2), 64)
    assert len(embedding.tokens) >= 2 * 25
    np.testing.assert_allclose(np.linalg.norm(embedding.tokens, axis=1), 1, atol=1e-5)


@torch.no_grad()
def test_a_patch_is_pooled_like_an_image_of_it_alone() -> None:
    """Where the pooling is a mean, the head of the mean is the mean of the heads without its norm and bias."""
    encoder = load("mean")
    visual = encoder._model.visual
    visual.trunk.fc_norm = torch.nn.Identity()
    frames = draw_frames(1, side=encoder.resize.crop)
    from vidret.encode.families.open_clip import encode_with_patches

    images = torch.tensor(frames.pixels).permute(0, 3, 1, 2) / 255
    vectors, patches = encode_with_patches("mean", visual, images)
    torch.testing.assert_close(patches.mean(1), vectors, atol=1e-5, rtol=1e-4)


def test_a_pooling_of_whole_images_has_no_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load("map")
    trunk = encoder._model.visual.trunk
    forward_head = trunk.forward_head

    def pool_whole(features: torch.Tensor) -> torch.Tensor:
        if features.shape[-1] == 1:
            raise RuntimeError("the positions are those of 5 x 5 cells")
        pooled: torch.Tensor = forward_head(features)
        return pooled

    monkeypatch.setattr(trunk, "forward_head", pool_whole)
    with pytest.raises(EncoderError, match="must come from a tower that can pool single patches, got vidret-map"):
        encoder.encode_frames([draw_frames(2, side=encoder.resize.crop)], tokens=True)


@torch.no_grad()
def test_a_text_tower_of_transformers_gives_words(texts: Path) -> None:
    encoder = load("xlm")
    written = ["a dog", "two cats.", "你好"]
    ids = open_clip.get_tokenizer("vidret-xlm")(written)
    library_vectors = functional.normalize(encoder._model.encode_text(ids), dim=-1)
    embeddings = encoder.encode_text(written)
    np.testing.assert_allclose(np.stack([text.sentence for text in embeddings]), library_vectors, atol=1e-5)
    assert all(text.words.shape[1] == encoder.dim and len(text.words) > 1 for text in embeddings)


def test_a_tokenizer_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "the tokenizer of vidret-gone/random: its files are not on this machine and HF_HUB_OFFLINE is set"
    with pytest.raises(EncoderError, match=expected):
        load("gone")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match='the tokenizer of vidret-xlm/random needs the extra "hf"'):
        load("xlm")


def test_branches_are_fused_without_a_change_of_vectors() -> None:
    """The trunk is of the family of MobileCLIP's."""
    torch.manual_seed(0)
    trunk: Any = timm.create_model("fastvit_t8", num_classes=0).eval()
    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:  # new ones do nothing
            module.running_mean.normal_(0, 0.1)
    images = torch.rand(1, 3, 64, 64)
    num_modules = len(list(trunk.modules()))
    with torch.inference_mode():
        before = functional.normalize(trunk(images), dim=-1)
        fused = fuse_branches(trunk)
        after = functional.normalize(fused(images), dim=-1)
    assert len(list(fused.modules())) < num_modules
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    plain = torch.nn.Linear(2, 2)
    assert fuse_branches(plain) is plain
