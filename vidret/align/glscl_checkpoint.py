"""Convert a published GLSCL checkpoint's aligner to ours; shapes say what it is.

A published checkpoint holds two decoders and two sets of queries, whether or not both were trained. With
``cross_att_share`` the decoder of words serves frames, too; with ``query_share`` the queries of frames serve words, and
the other decoder or set stays as it was initialised.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from vidret.align.glscl import ConceptAligner, ConceptFinder
from vidret.align.ucofia_temporal import TemporalTransformer
from vidret.errors import AlignerError
from vidret.layers import find_misfits

TEMPERATURE, HEADS, SHARE = 3.0, 8, 0.5  # of the published settings; no weight tells them

# How names begin, in a checkpoint.
POSITIONS, BLOCKS = "frame_position_embeddings.weight", "transformerClip.resblocks."
FRAME_QUERIES, WORD_QUERIES = "spatial_queries", "noun_queries"
FRAME_DECODER, WORD_DECODER = "transformer_decoder_spatial.layers.", "transformer_decoder_noun.layers."
KNOWN = (POSITIONS, BLOCKS, FRAME_QUERIES, WORD_QUERIES, FRAME_DECODER, WORD_DECODER)
FRAME_LAYER = "decoder_layer_spatial."  # the layer that the decoder of frames was copied from, never trained itself
# The encoder's; the layers that decoders were copied from; and a weighing whose result is thrown away.
LEFT = ("clip.", "decoder_layer_noun.", FRAME_LAYER, "weight_fc.")


def convert_concepts(
    weights: Mapping[str, Tensor],
    *,
    temperature: float = TEMPERATURE,
    heads: int = HEADS,
    shared_queries: bool | None = None,
) -> ConceptAligner:
    """Turn the aligner's part of a published GLSCL state dict into an aligner; the rest is the encoder's.

    Frames get a decoder of their own where there is one and it was trained.

    Args:
        weights: The whole state dict.
        temperature: Of the softmax over frames.
        heads: Of the decoders' attention.
        shared_queries: Whether the queries of frames serve words, too, which no weight tells; as the decoder unless
            given.

    Raises:
        AlignerError: Lists the weights that are missing, unknown or of another shape, by their published names.
    """
    _complain("unknown", [name for name in weights if not name.startswith((*KNOWN, *LEFT))], {})
    shared = not _is_trained(weights)
    names = name_parts(shared, shared if shared_queries is None else shared_queries)
    renamed = {
        own + name.removeprefix(theirs): weight.float()
        for own, theirs in names.items()
        for name, weight in weights.items()
        if name.startswith(theirs)
    }
    return build_concepts(renamed, temperature=temperature, heads=heads, names=names)


def name_parts(shared_decoder: bool, shared_queries: bool) -> dict[str, str]:
    """Return how our names begin, and how those of the weights that belong there do."""
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
    """Build the aligner that weights with our names have the shapes of; errors call them by ``names``."""
    for_words = any(name.startswith("word_finder.") for name in weights)
    finders = ("finder.", "word_finder.") if for_words else ("finder.",)
    needed = [f"{finder}{part}" for finder in finders for part in ("seeds", "decoder.0.linear1.weight")]
    _complain("missing", [name for name in ("temporal.positions", *needed) if name not in weights], names)
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
        _complain(kind, misfits, names)
    aligner.load_state_dict(weights)
    return aligner.eval()


def _build_finder(weights: Mapping[str, Tensor], prefix: str, heads: int) -> ConceptFinder:
    """Build a finder of the shapes that its weights have."""
    num_concepts, dim = weights[f"{prefix}seeds"].shape
    layers, hidden = _count_layers(weights, f"{prefix}decoder."), len(weights[f"{prefix}decoder.0.linear1.weight"])
    return ConceptFinder(dim, num_concepts=num_concepts, layers=layers, heads=heads, hidden=hidden)


def _is_trained(weights: Mapping[str, Tensor]) -> bool:
    """Tell whether there is a decoder of frames that was trained: before that, its layers are copies of one."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, weight in weights.items():
        if name.startswith(FRAME_DECODER):
            number, part = name.removeprefix(FRAME_DECODER).split(".", 1)
            layers.setdefault(number, {})[part] = weight
    if not layers:
        return False
    given = (
        (name.removeprefix(FRAME_LAYER), weight) for name, weight in weights.items() if name.startswith(FRAME_LAYER)
    )
    origin = dict(given)
    first, *others = [each for each in (*layers.values(), origin) if each]
    return not others or not all(_is_copy(first, each) for each in others)


def _is_copy(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[part], other[part]) for part in one)


def _count_layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})


def _complain(kind: str, found: Iterable[str], names: Mapping[str, str]) -> None:
    """Refuse, calling our names by the published ones."""
    called = []
    for name in found:
        prefix = next((ours for ours in names if name.startswith(ours)), "")
        called.append(names.get(prefix, "") + name.removeprefix(prefix))
    if called:
        raise AlignerError(f"glscl: {len(called)} weights {kind}: {', '.join(sorted(called))}")
