"""Conversion of the aligner in a published GLSCL checkpoint; sizes follow from the weights' shapes.

A published checkpoint contains two decoders and two sets of queries, whether or not both were trained. With
``cross_att_share`` the words' decoder is also used for frames; with ``query_share`` the frames' queries are also used
for words. The unused decoder or set of queries keeps its initial values.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from vidret.align.glscl import ConceptAligner, ConceptFinder
from vidret.align.ucofia_temporal import TemporalTransformer
from vidret.errors import AlignerError
from vidret.layers import find_misfits

TEMPERATURE, HEADS, SHARE = 3.0, 8, 0.5  # published settings, which do not follow from the weights

# Prefixes of names in a checkpoint.
POSITIONS, BLOCKS = "frame_position_embeddings.weight", "transformerClip.resblocks."
FRAME_QUERIES, WORD_QUERIES = "spatial_queries", "noun_queries"
FRAME_DECODER, WORD_DECODER = "transformer_decoder_spatial.layers.", "transformer_decoder_noun.layers."
KNOWN = (POSITIONS, BLOCKS, FRAME_QUERIES, WORD_QUERIES, FRAME_DECODER, WORD_DECODER)
FRAME_LAYER = "decoder_layer_spatial."  # never trained itself: the frames' decoder was initialised with copies of it
# Weights of the encoder, layers that decoders were initialised from, and a layer whose output is not used.
IGNORED = ("clip.", "decoder_layer_noun.", FRAME_LAYER, "weight_fc.")


def convert_concepts(
    weights: Mapping[str, Tensor],
    *,
    temperature: float = TEMPERATURE,
    heads: int = HEADS,
    shared_queries: bool | None = None,
) -> ConceptAligner:
    """Convert the aligner in a published GLSCL state dict; the encoder's weights are ignored.

    Frames have their own decoder if the checkpoint contains one that was trained.

    Args:
        weights: The whole state dict.
        temperature: Temperature of the softmax over frames.
        heads: Attention heads of the decoders.
        shared_queries: Whether the frames' queries are also used for words, which does not follow from the weights;
            defaults to whether the decoder is shared.

    Raises:
        AlignerError: Weights are missing, unknown or of another shape; the message lists their published names.
    """
    _refuse("unknown", [name for name in weights if not name.startswith((*KNOWN, *IGNORED))], {})
    shared = not _is_trained(weights)
    names = map_prefixes(shared, shared if shared_queries is None else shared_queries)
    renamed = {
        own + name.removeprefix(published): weight.float()
        for own, published in names.items()
        for name, weight in weights.items()
        if name.startswith(published)
    }
    return build_concepts(renamed, temperature=temperature, heads=heads, names=names)


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
    weights: Mapping[str, Tensor], *, temperature: float, heads: int, share: float = SHARE, names: Mapping[str, str]
) -> ConceptAligner:
    """Build an aligner from weights with its own names, with sizes that follow from their shapes.

    Args:
        weights: The aligner's state dict.
        temperature: Temperature of the softmax over frames.
        heads: Attention heads of the decoders.
        share: Weight of the concept agreement in the score.
        names: Published prefix of each own prefix, used in errors.

    Raises:
        AlignerError: Weights are missing, unknown or of another shape.
    """
    for_words = any(name.startswith("word_finder.") for name in weights)
    finders = ("finder.", "word_finder.") if for_words else ("finder.",)
    needed = [f"{finder}{key}" for finder in finders for key in ("seeds", "decoder.0.linear1.weight")]
    _refuse("missing", [name for name in ("temporal.positions", *needed) if name not in weights], names)
    positions = weights["temporal.positions"]
    aligner = ConceptAligner(
        temporal=TemporalTransformer(
            positions.shape[1], layers=_count_layers(weights, "temporal.blocks."), num_positions=len(positions)
        ),
        finder=_build_finder(weights, "finder.", heads),
        word_finder=_build_finder(weights, "word_finder.", heads) if for_words else None,
        temperature=temperature,
        share=share,
    )
    for kind, misfits in find_misfits(aligner.state_dict(), weights).items():
        _refuse(kind, misfits, names)
    aligner.load_state_dict(weights)
    return aligner.eval()


def _build_finder(weights: Mapping[str, Tensor], prefix: str, heads: int) -> ConceptFinder:
    """Return a finder whose sizes follow from its weights."""
    num_concepts, dim = weights[f"{prefix}seeds"].shape
    layers, hidden = _count_layers(weights, f"{prefix}decoder."), len(weights[f"{prefix}decoder.0.linear1.weight"])
    return ConceptFinder(dim, num_concepts=num_concepts, layers=layers, heads=heads, hidden=hidden)


def _is_trained(weights: Mapping[str, Tensor]) -> bool:
    """Whether there is a frames' decoder that was trained; an untrained one consists of copies of one layer."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, weight in weights.items():
        if name.startswith(FRAME_DECODER):
            layer_index, key = name.removeprefix(FRAME_DECODER).split(".", 1)
            layers.setdefault(layer_index, {})[key] = weight
    if not layers:
        return False
    original = {
        name.removeprefix(FRAME_LAYER): weight for name, weight in weights.items() if name.startswith(FRAME_LAYER)
    }
    first, *others = [layer for layer in (*layers.values(), original) if layer]
    return not others or not all(_is_copy(first, layer) for layer in others)


def _is_copy(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def _count_layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})


def _refuse(kind: str, weight_names: Iterable[str], names: Mapping[str, str]) -> None:
    """Raise an error that lists weights by their published names, if there are any."""
    published = []
    for name in weight_names:
        prefix = next((own for own in names if name.startswith(own)), "")
        published.append(names.get(prefix, "") + name.removeprefix(prefix))
    if published:
        raise AlignerError(f"glscl: {len(published)} weights {kind}: {', '.join(sorted(published))}")
