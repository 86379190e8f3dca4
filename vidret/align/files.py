"""Files of trained aligners: vidret's own, with a card that names the kind of aligner, and published checkpoints.

Sizes follow from the shapes of weights.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vidret.align.attending import FrameAttention, SoftmaxAttention, TopFrames
from vidret.align.glscl import ConceptAligner, ConceptFinder
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_levels import Mixing
from vidret.align.ucofia_selection import PatchSelector, ScoreNet
from vidret.errors import AlignerError
from vidret.layers import TemporalTransformer
from vidret.model_files import (
    ALIGNER,
    Part,
    count_layers,
    load_exactly,
    read_metadata,
    read_part,
    refuse_weights,
    rename_weights,
    translate,
)
from vidret.text import parse_json

Weights = Mapping[str, Tensor]

_PARTS = ("attn.out_proj.", "attn.in_proj_", "ln_1.", "ln_2.", "mlp.c_fc.", "mlp.c_proj.")
_BLOCK = [part + kind for part in _PARTS for kind in ("weight", "bias")]
# Published names to the aligner's own; * is the index of a layer.
UCOFIA = {
    "clip.logit_scale": "logit_scale",
    "frame_position_embeddings.weight": "temporal.positions",
    **{f"transformerClip.resblocks.*.{key}": f"temporal.blocks.*.{key}" for key in _BLOCK},
    "visual_token_selector.score_predictor.in_conv.0.weight": "selector.score.norm.weight",
    "visual_token_selector.score_predictor.in_conv.0.bias": "selector.score.norm.bias",
    "visual_token_selector.score_predictor.in_conv.1.weight": "selector.score.reduce.weight",
    "visual_token_selector.score_predictor.out_conv.0.weight": "selector.score.join.weight",
    "visual_token_selector.score_predictor.out_conv.2.weight": "selector.score.out.weight",
    "global_mat_weight": "mixing.sentence",
    "global_mat_weight_1": "mixing.video",
    "frame_logit_weight": "mixing.frames",
    "local_mat_weight": "mixing.word",
    "local_mat_weight1": "mixing.token",
    "word_mat_weight": "mixing.words_first",
    "pixel_mat_weight2": "mixing.tokens_second",
    "pixel_mat_weight": "mixing.tokens_first",
    "word_mat_weight2": "mixing.words_second",
}
PUBLISHED_UCOFIA = {name: published for published, name in UCOFIA.items()}
# Weights of the encoder, and four matrices that every checkpoint contains and no formula uses.
IGNORED_UCOFIA = re.compile(r"clip\.|(word_logit_weight|frame_mat_weight2?|word_mat_weight_for_pixel)$")


def convert_aligner(weights: Weights) -> Aligner:
    """Convert the aligner in a published UCoFiA state dict; the encoder's weights are ignored.

    Raises:
        AlignerError: Weights are unknown, missing or of another shape; the message lists their published names.
    """
    renamed = rename_weights(weights, UCOFIA, ignored=IGNORED_UCOFIA, error=AlignerError)
    if "logit_scale" in renamed:
        renamed["logit_scale"] = renamed["logit_scale"].reshape(())
    return build_aligner(renamed, PUBLISHED_UCOFIA)


def build_aligner(weights: Weights, names: Mapping[str, str], *, unit_tokens: bool = False) -> Aligner:
    """Build an aligner from weights with its own names.

    Args:
        weights: The aligner's state dict. Without ``names`` it may lack a selector, as for merged tokens.
        names: Published name of each own name, used in errors; empty for an aligner that vidret trained.
        unit_tokens: As in ``Aligner``; the published heads were trained without.

    Raises:
        AlignerError: Weights are unknown, missing or of another shape.
    """

    def show(name: str) -> str:
        return translate(name, names) or name

    selects = bool(names) or any(name.startswith("selector.") for name in weights)
    required = [name for name in UCOFIA.values() if "*" not in name and (selects or not name.startswith("selector."))]
    refuse_weights("missing", [show(name) for name in required if name not in weights], AlignerError)
    mixing = {name: weights[name] for name in required if name.startswith("mixing.")}
    odd = [name for name, matrix in mixing.items() if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]]
    refuse_weights("not square", map(show, odd), AlignerError)
    num_positions, dim = weights["temporal.positions"].shape
    num_frames, num_tokens = len(weights["mixing.frames"]), len(weights["mixing.tokens_first"])
    aligner = Aligner(
        temporal=TemporalTransformer(
            dim, layers=count_layers(weights, "temporal.blocks."), num_positions=num_positions
        ),
        selector=PatchSelector(ScoreNet(dim), kept=num_tokens // num_frames - 1) if selects else None,
        mixing=Mixing(dim, num_frames=num_frames, num_words=len(weights["mixing.words_first"]), num_tokens=num_tokens),
        unit_tokens=unit_tokens,
    )
    load_exactly(aligner, weights, show=show, error=AlignerError)
    return aligner.eval()


# GLSCL. A checkpoint contains two decoders and two sets of queries, whether or not both were trained. With
# ``cross_att_share`` the words' decoder is also used for frames; with ``query_share`` the frames' queries are also used
# for words. The unused decoder or set of queries keeps its initial values.
TEMPERATURE, HEADS, SHARE = 3.0, 8, 0.5  # published settings, which do not follow from the weights

# Prefixes of names in a checkpoint.
POSITIONS, BLOCKS = "frame_position_embeddings.weight", "transformerClip.resblocks."
FRAME_QUERIES, WORD_QUERIES = "spatial_queries", "noun_queries"
FRAME_DECODER, WORD_DECODER = "transformer_decoder_spatial.layers.", "transformer_decoder_noun.layers."
KNOWN = (POSITIONS, BLOCKS, FRAME_QUERIES, WORD_QUERIES, FRAME_DECODER, WORD_DECODER)
FRAME_LAYER = "decoder_layer_spatial."  # never trained itself: the frames' decoder was initialised with copies of it
# Weights of the encoder, layers that decoders were initialised from, and a layer whose output is not used.
IGNORED_GLSCL = ("clip.", "decoder_layer_noun.", FRAME_LAYER, "weight_fc.")


def convert_concepts(weights: Weights, *, shared_queries: bool | None = None) -> ConceptAligner:
    """Convert the aligner in a published GLSCL state dict; the encoder's weights are ignored.

    Frames have their own decoder if the checkpoint contains one that was trained. ``shared_queries`` is whether the
    frames' queries are also used for words, which does not follow from the weights; by default if the decoder is.

    Raises:
        AlignerError: Weights are missing, unknown or of another shape; the message lists their published names.
    """
    unknown = [name for name in weights if not name.startswith((*KNOWN, *IGNORED_GLSCL))]
    refuse_weights("unknown", unknown, AlignerError)
    shared = not _is_trained(weights)
    names = map_prefixes(shared, shared if shared_queries is None else shared_queries)
    renamed = {
        prefix + name.removeprefix(published): weight.float()
        for prefix, published in names.items()
        for name, weight in weights.items()
        if name.startswith(published)
    }
    return build_concepts(renamed, temperature=TEMPERATURE, heads=HEADS, names=names)


def map_prefixes(shared_decoder: bool, shared_queries: bool) -> dict[str, str]:
    """Return the published prefix for each prefix of the aligner's own weight names."""
    decoder = WORD_DECODER if shared_decoder else FRAME_DECODER
    names = {"temporal.positions": POSITIONS, "temporal.blocks.": BLOCKS}
    names |= {"finder.seeds": FRAME_QUERIES, "finder.decoder.": decoder}
    if not (shared_decoder and shared_queries):
        names |= {"word_finder.seeds": FRAME_QUERIES if shared_queries else WORD_QUERIES}
        names |= {"word_finder.decoder.": WORD_DECODER}
    return names


def build_concepts(
    weights: Weights, *, temperature: float, heads: int, share: float = SHARE, names: Mapping[str, str]
) -> ConceptAligner:
    """Build an aligner from weights with its own names; ``names`` maps own prefixes to published ones.

    Raises:
        AlignerError: Weights are missing, unknown or of another shape.
    """

    def show(name: str) -> str:
        prefix = next((candidate for candidate in names if name.startswith(candidate)), "")
        return names.get(prefix, "") + name.removeprefix(prefix)

    for_words = any(name.startswith("word_finder.") for name in weights)
    finders = ("finder.", "word_finder.") if for_words else ("finder.",)
    needed = [f"{finder}{key}" for finder in finders for key in ("seeds", "decoder.0.linear1.weight")]
    missing = [show(name) for name in ("temporal.positions", *needed) if name not in weights]
    refuse_weights("missing", missing, AlignerError)
    positions = weights["temporal.positions"]
    aligner = ConceptAligner(
        temporal=TemporalTransformer(
            positions.shape[1], layers=count_layers(weights, "temporal.blocks."), num_positions=len(positions)
        ),
        finder=_build_finder(weights, "finder.", heads),
        word_finder=_build_finder(weights, "word_finder.", heads) if for_words else None,
        attention=SoftmaxAttention(temperature),
        share=share,
    )
    load_exactly(aligner, weights, show=show, error=AlignerError)
    return aligner.eval()


def _build_finder(weights: Weights, prefix: str, heads: int) -> ConceptFinder:
    """Return a finder whose sizes follow from its weights."""
    num_concepts, dim = weights[f"{prefix}seeds"].shape
    if heads < 1 or dim % heads:
        raise AlignerError(f"heads must divide {dim}, got {heads}")
    layers, hidden = count_layers(weights, f"{prefix}decoder."), len(weights[f"{prefix}decoder.0.linear1.weight"])
    return ConceptFinder(dim, num_concepts=num_concepts, layers=layers, heads=heads, hidden=hidden)


def _is_trained(weights: Weights) -> bool:
    """Return whether there is a trained decoder for frames; an untrained one consists of copies of one layer."""
    layers = defaultdict[str, dict[str, Tensor]](dict)
    for name, weight in weights.items():
        if match := re.fullmatch(rf"({FRAME_DECODER}\d+\.|{FRAME_LAYER})(.+)", name):
            layers[match[1]][match[2]] = weight
    if not any(layer.startswith(FRAME_DECODER) for layer in layers):
        return False
    first, *others = layers.values()
    is_copied = [one.keys() == first.keys() and all(torch.equal(one[key], first[key]) for key in one) for one in others]
    return not others or not all(is_copied)


FORMAT = 1
CARD = "vidret-aligner"

# Builders of each kind of aligner from weights and card.
BUILDERS: Mapping[str, Callable[[Weights, Mapping[str, Any]], Aligner | ConceptAligner]] = {
    Aligner.kind: lambda weights, card: build_aligner(weights, {}, unit_tokens=card.get("unit_tokens", False)),
    ConceptAligner.kind: lambda weights, card: (
        build_pooling(weights, card["top"])
        if "top" in card
        else build_concepts(
            weights, temperature=card["temperature"], heads=card["heads"], share=card["share"], names={}
        )
    ),
}


def build_pooling(weights: Weights, top: int) -> ConceptAligner:
    """Build an aligner that pools frames by X-Pool's attention, or with a ``top`` the most similar ones.

    Raises:
        AlignerError: Weights are missing, unknown or of another shape.
    """
    aligner = ConceptAligner(attention=TopFrames(top) if top else FrameAttention(read_dim(weights) or 1))
    load_exactly(aligner, weights, error=AlignerError)
    return aligner.eval()


def read_dim(weights: Weights) -> int | None:
    """Return the dimension of the vectors that the weights of an aligner are for; None for any."""
    tensors = [weights[name] for name in ("temporal.positions", "attention.norm.weight") if name in weights]
    return tensors[0].shape[-1] if tensors else None


def describe_aligner(aligner: Aligner | ConceptAligner) -> Part:
    """Return the weights and the card of an aligner, as a file holds them."""
    return Part({"format": FORMAT, "aligner": aligner.kind, **aligner.describe()}, aligner.state_dict())


def load_aligner(path: Path) -> Aligner | ConceptAligner:
    """Load a trained aligner from a file of its own, or from a joint file.

    Raises:
        AlignerError: The file cannot be read, or does not contain exactly the weights of an aligner.
    """
    try:
        part = read_part(path, ALIGNER) or Part(parse_json(read_metadata(path).get(CARD, "{}")), load_file(path))
        if part.card["format"] == FORMAT:
            return BUILDERS[part.card["aligner"]](part.weights, part.card)
    except (AlignerError, SafetensorError, OSError, ValueError) as error:
        raise AlignerError(f"{path}: {error}") from error
    except (KeyError, TypeError):  # a card may hold anything
        pass
    raise AlignerError(f"{path}: not an aligner that this version of vidret supports")
