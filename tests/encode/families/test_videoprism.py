"""VideoPrism's released weights: a made-up .npz in the layout of JAX becomes the model that it was made from."""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import erf, softmax

from tests.encode.hf_models import TINY, load_theirs, transformers
from vidret.encode.families.registry import load_encoder
from vidret.encode.families.transformers_models import canonicalise
from vidret.encode.families.videoprism import STACKS, convert_videoprism, read_pieces
from vidret.errors import EncoderError
from vidret.types import Frames

PIECES = ["<pad>", "</s>", "<unk>", ".", "▁", *"abcdefghijklmnopqrstuvwxyz", "▁do", "▁dog", "og", "▁a"]
HEADS, WIDTH = 4, 8


def make_model() -> Any:
    """Return a tiny random model whose vocabulary is ``PIECES``."""
    config = TINY["videoprism"].make_config()
    config.text_config.vocab_size = len(PIECES)
    torch.manual_seed(0)
    model = transformers.VideoPrismClipModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return model


def to_jax(name: str, value: np.ndarray) -> Any:
    """Return a weight in the layout of JAX: features in come first, and heads are an axis of their own."""
    width = 12 if ".head." in name else WIDTH  # the pooling's heads are as wide as the MLP's share
    if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
        return value.T.reshape(-1, HEADS, width)
    if name.endswith("o_proj.weight"):
        return value.reshape(-1, HEADS, width)
    if name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias")):
        return value.reshape(HEADS, width)
    if name.endswith("projection.weight"):
        return value[:, :, 0].transpose(2, 3, 1, 0).reshape(-1, len(value))  # rows, columns, colours
    if name.endswith("position_embeddings"):
        return value[0]
    return value.T if "mlp.fc" in name and name.endswith("weight") else value


NAMES = (  # in transformers, and in JAX
    ("attention.q_proj.weight", "self_attention/query/w"),
    ("attention.k_proj.weight", "self_attention/key/w"),
    ("attention.v_proj.weight", "self_attention/value/w"),
    ("attention.o_proj.weight", "self_attention/post/w"),
    ("attention.q_proj.bias", "self_attention/query/b"),
    ("attention.k_proj.bias", "self_attention/key/b"),
    ("attention.v_proj.bias", "self_attention/value/b"),
    ("attention.o_proj.bias", "self_attention/post/b"),
    ("layernorm_before.weight", "layer_norm/scale"),
    ("layernorm_before.bias", "layer_norm/bias"),
    ("layernorm_after.weight", "ff_layer/layer_norm/scale"),
    ("layernorm_after.bias", "ff_layer/layer_norm/bias"),
    ("mlp.fc1.weight", "ff_layer/ffn_layer1/linear/kernel"),
    ("mlp.fc1.bias", "ff_layer/ffn_layer1/linear/bias"),
    ("mlp.fc2.weight", "ff_layer/ffn_layer2/linear/kernel"),
    ("mlp.fc2.bias", "ff_layer/ffn_layer2/linear/bias"),
)
VISION, POOLER = "video_model.vision_model", "contrastive_vision_pooler"
SINGLE = {
    f"{VISION}.spatial_embeddings.patch_embeddings.projection.weight": "vision_encoder/patch_projection/linear/kernel",
    f"{VISION}.spatial_embeddings.patch_embeddings.projection.bias": "vision_encoder/patch_projection/linear/bias",
    f"{VISION}.spatial_embeddings.position_embeddings": "vision_encoder/spatial_pos_emb/emb_var",
    f"{VISION}.temporal_embeddings.position_embeddings": "vision_encoder/temporal_pos_emb/emb_var",
    f"{VISION}.layernorm1.weight": "vision_encoder/spatial_ln/scale",
    f"{VISION}.layernorm1.bias": "vision_encoder/spatial_ln/bias",
    f"{VISION}.layernorm2.weight": "vision_encoder/temporal_ln/scale",
    f"{VISION}.layernorm2.bias": "vision_encoder/temporal_ln/bias",
    "video_model.head.per_dim_scale": f"{POOLER}/pooling_attention/per_dim_scale/per_dim_scale",
    "video_model.head.pooling_attention_query": f"{POOLER}/pooling_attention_query",
    "video_model.head_layernorm.weight": f"{POOLER}/pooling_attention_layer_norm/scale",
    "video_model.head_layernorm.bias": f"{POOLER}/pooling_attention_layer_norm/bias",
    "text_model.embeddings.cls_emb": "text_encoder/cls_emb",
    "text_model.embeddings.token_embedding.weight": "text_encoder/token_emb/emb_var",
    "text_model.layernorm.weight": "text_encoder/unimodal_ln/scale",
    "text_model.layernorm.bias": "text_encoder/unimodal_ln/bias",
    **{
        ours.replace("attention", "video_model.head"): theirs.replace("self_attention", f"{POOLER}/pooling_attention")
        for ours, theirs in NAMES[:8]
    },
}


def write_npz(model: Any, path: Path) -> dict[str, Any]:
    """Write a model as VideoPrism is released: a stack of layers is one array."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    arrays = {f"params/{theirs}": to_jax(ours, state[ours]) for ours, theirs in SINGLE.items()}
    for theirs, stack in STACKS.items():
        count = len({name.removeprefix(f"{stack}.").split(".")[0] for name in state if name.startswith(f"{stack}.")})
        for weight, name in NAMES:
            layers = [to_jax(weight, state[f"{stack}.{layer}.{weight}"]) for layer in range(count)]
            arrays[f"params/{theirs}/{name}"] = np.stack(layers)
    np.savez(path, **arrays)
    return arrays


def write_spiece(path: Path, pieces: list[str] = PIECES) -> Path:
    """Write a SentencePiece model by hand: fields of protocol buffers, each a key, a length and a value."""

    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    data = b"\x12\x02\x08\x01"  # a trainer specification with one number, which is skipped
    for rank, piece in enumerate(pieces):
        score = bytes([2 << 3 | 5]) + struct.pack("<f", -float(rank))
        data += field(1, field(1, piece.encode()) + score + bytes([3 << 3, 1]))
    path.write_bytes(data + field(3, field(1, b"identity")))
    return path


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, np.ndarray], Path]:
    folder, model = tmp_path_factory.mktemp("videoprism"), make_model()
    arrays = write_npz(model, folder / "lvt.npz")
    write_spiece(folder / "spiece.model")
    convert_videoprism(folder / "lvt.npz", folder / "spiece.model", folder / "out")
    return model, arrays, folder


@torch.no_grad()
def test_a_converted_model_gives_the_vectors_of_its_source(released: Any) -> None:
    model, _, folder = released
    encoder = load_encoder(f"hf:{folder / 'out'}", device="cpu", precision="fp32")
    assert (encoder.sampling.num_frames, encoder.resize.crop, encoder.resize.squash) == (4, 32, True)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    video = torch.from_numpy(pixels).permute(0, 3, 1, 2)[None] / 255
    library_vectors = model.get_video_features(pixel_values_videos=video).pooler_output
    assert library_vectors.shape == (1, 1, encoder.dim)
    found = encoder.encode_frames([Frames(pixels, np.arange(4.0))])[0].video
    np.testing.assert_allclose(found, library_vectors[0, 0].numpy(), atol=1e-5)
    # "A dog!" becomes "a dog.", cut into the pieces whose ranks have the least sum: 4 + 5 is less than that of "▁a".
    pieces = [PIECES.index(piece) for piece in ("▁", "a", "▁dog", ".")]
    ids = torch.tensor([pieces + [0] * (64 - len(pieces))])
    output = model.get_text_features(input_ids=ids, attention_mask=(ids != 0).long()).pooler_output
    np.testing.assert_allclose(encoder.encode_text(["A  dog!"])[0].sentence, output[0].numpy(), atol=1e-5)


def attend(x: np.ndarray, arrays: dict[str, np.ndarray], stack: str) -> Any:
    """Return a layer's output as JAX computes it, from the arrays of the first layer of a stack."""

    def get(name: str) -> Any:
        return arrays[f"params/{stack}/{name}"][0].astype(np.float64)

    def norm(rows: np.ndarray, name: str) -> Any:
        centred = rows - rows.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * (get(f"{name}/scale") + 1) + get(f"{name}/bias")

    normed = norm(x, "layer_norm")
    query, key, value = (
        np.einsum("td,dnh->tnh", normed, get(f"self_attention/{projection}/w")) + get(f"self_attention/{projection}/b")
        for projection in ("query", "key", "value")
    )
    logits = np.einsum("tnh,snh->nts", query / math.sqrt(WIDTH), key)
    weights = softmax(50 * np.tanh(logits / 50), axis=-1)
    mixed = np.einsum("nts,snh->tnh", weights, value)
    x = x + np.einsum("tnh,dnh->td", mixed, get("self_attention/post/w")) + get("self_attention/post/b")
    hidden = norm(x, "ff_layer/layer_norm") @ get("ff_layer/ffn_layer1/linear/kernel")
    hidden = hidden + get("ff_layer/ffn_layer1/linear/bias")
    hidden = hidden * 0.5 * (1 + erf(hidden / math.sqrt(2)))
    return x + hidden @ get("ff_layer/ffn_layer2/linear/kernel") + get("ff_layer/ffn_layer2/linear/bias")


@torch.no_grad()
def test_a_converted_layer_computes_what_jax_does(released: Any) -> None:
    """The norm's weight is stored minus one, and logits are capped."""
    _, arrays, folder = released
    model = load_theirs(folder / "out")
    x = 3 * np.random.default_rng(1).standard_normal((5, 32))
    (stack, *_), layer = STACKS, model.video_model.vision_model.spatial_layers[0]
    found = layer(torch.from_numpy(x[None]).float())[0].numpy()
    np.testing.assert_allclose(found, attend(x, arrays, stack), atol=1e-4)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Hello, World!", "hello world."),
        ("Hello,World..", "hello world."),
        ("  Hello   WORLD", "hello world."),
        ("", "."),
    ],
)
def test_texts_are_canonicalised_as_by_the_authors(text: str, canonical: str) -> None:
    assert canonicalise(text) == canonical


def test_files_of_something_else_are_refused(released: Any, tmp_path: Path) -> None:
    _, arrays, folder = released
    vocabulary = folder / "spiece.model"
    for name, content in (("a.npz", b"no zip"), ("b.model", b"\xff" * 9)):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(EncoderError, match=r"a\.npz: must be an \.npz of arrays"):
        convert_videoprism(tmp_path / "a.npz", vocabulary, tmp_path / "out")
    with pytest.raises(EncoderError, match=r"b\.model: must be a SentencePiece model"):
        read_pieces(tmp_path / "b.model")
    np.savez(tmp_path / "more.npz", **(arrays | {"params/decoder/w": np.zeros(3)}))
    with pytest.raises(EncoderError, match="must be of VideoPrism-LvT, got a weight named decoder/w"):
        convert_videoprism(tmp_path / "more.npz", vocabulary, tmp_path / "out")
    np.savez(tmp_path / "less.npz", **{key: value for key, value in arrays.items() if "cls_emb" not in key})
    with pytest.raises(EncoderError, match=r"1 weight missing: text_model\.embeddings\.cls_emb"):
        convert_videoprism(tmp_path / "less.npz", vocabulary, tmp_path / "out")
    np.savez(tmp_path / "none.npz", a=np.array(["an object"], object))
    with pytest.raises(EncoderError, match=r"must be an \.npz of arrays"):
        convert_videoprism(tmp_path / "none.npz", vocabulary, tmp_path / "out")
    short = write_spiece(tmp_path / "short.model", PIECES[:-1])
    with pytest.raises(EncoderError, match=f"must have {len(PIECES)} pieces, as the weights, got {len(PIECES) - 1}"):
        convert_videoprism(folder / "lvt.npz", short, tmp_path / "out")
