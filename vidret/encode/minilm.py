"""MiniLM, a small BERT, on ``torch.nn.TransformerEncoder``: for many texts at once; ``sentences`` encodes a query.

Reference: Wang et al. 2020, "MiniLM"; Devlin et al. 2019, "BERT", section 3 for the architecture.
"""

import json
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

Weights = dict[str, Tensor]


class MiniLM(nn.Module):
    """Token and position embeddings, then post-norm encoder layers; all tokens have type 0."""

    def __init__(self, config: dict[str, int | float]) -> None:
        """Build the network of a BERT ``config.json``; the weights of the embeddings are undefined until loaded."""
        super().__init__()
        width, eps = int(config["hidden_size"]), float(config["layer_norm_eps"])
        self.words = _make_embedding(int(config["vocab_size"]), width)
        self.positions = _make_embedding(int(config["max_position_embeddings"]), width)
        self.kinds = _make_embedding(int(config["type_vocab_size"]), width)
        self.norm = nn.LayerNorm(width, eps)
        layer = nn.TransformerEncoderLayer(
            width,
            int(config["num_attention_heads"]),
            int(config["intermediate_size"]),
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=eps,
            batch_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, int(config["num_hidden_layers"]), enable_nested_tensor=False)

    def forward(
        self, ids: Int[Tensor, "text word"], mask: Bool[Tensor, "text word"]
    ) -> Float[Tensor, "text word width"]:
        """Return the last layer's states; ``mask`` is False where a word is padding."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        states = self.norm(self.words(ids) + self.positions(positions) + self.kinds.weight[0])
        out: Tensor = self.encoder(states, src_key_padding_mask=None if mask.all() else ~mask)
        return out


def _make_embedding(num_rows: int, width: int) -> nn.Embedding:
    """Return an embedding whose weights are undefined; ``nn.Embedding`` draws them, which imports TorchDynamo."""
    embedding: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(num_rows, width))  # type: ignore[no-untyped-call]
    return embedding


def load_minilm(folder: Path) -> MiniLM:
    """Load MiniLM from a folder with ``config.json`` and ``model.safetensors``, in evaluation mode."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):  # random weights, soon replaced, would take longer than encoding a query
        model = MiniLM(config)
    weights = _rename(load_file(folder / "model.safetensors"), len(model.encoder.layers))
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _rename(theirs: Weights, num_layers: int) -> Weights:
    """Rename BERT's weights to those of ``torch.nn.TransformerEncoder``; query, key and value are packed."""
    own = {
        "words.weight": theirs["embeddings.word_embeddings.weight"],
        "positions.weight": theirs["embeddings.position_embeddings.weight"],
        "kinds.weight": theirs["embeddings.token_type_embeddings.weight"],
    }
    modules = {
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    for kind in ("weight", "bias"):
        own[f"norm.{kind}"] = theirs[f"embeddings.LayerNorm.{kind}"]
        for index in range(num_layers):
            layer, ours = f"encoder.layer.{index}", f"encoder.layers.{index}"
            packed = [theirs[f"{layer}.attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            own[f"{ours}.self_attn.in_proj_{kind}"] = torch.cat(packed)
            own |= {f"{ours}.{module}.{kind}": theirs[f"{layer}.{name}.{kind}"] for module, name in modules.items()}
    return own
