"""A published GLSCL checkpoint's aligner to ours; shapes say what it is."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from vidret.align.concepts import ConceptAligner, ConceptFinder
from vidret.align.temporal import TemporalTransformer
from vidret.errors import AlignerError
from vidret.layers import find_misfits

TEMPERATURE, HEADS = 3.0, 8  # of the published settings; no weight tells them

# Our names, or how they begin, to the published ones.
GLSCL: Mapping[str, str] = {
    "temporal.positions": "frame_position_embeddings.weight",
    "temporal.blocks.": "transformerClip.resblocks.",
    "finder.seeds": "spatial_queries",
    "finder.decoder.": "transformer_decoder_noun.layers.",
}
LEFT = ("clip.", "noun_queries")  # the encoder's; and what idles where texts and videos share their queries


def convert_concepts(
    weights: Mapping[str, Tensor], *, temperature: float = TEMPERATURE, heads: int = HEADS
) -> ConceptAligner:
    """Turn the aligner's part of a published GLSCL state dict into an aligner; the rest is the encoder's.

    Raises:
        AlignerError: Lists the weights that are missing, unknown or of another shape, by their published names.
    """
    renamed, unknown = {}, []
    for name, weight in weights.items():
        found = next(((theirs, ours) for ours, theirs in GLSCL.items() if name.startswith(theirs)), None)
        if found is not None:
            renamed[found[1] + name.removeprefix(found[0])] = weight.float()
        elif not name.startswith(LEFT):
            unknown.append(name)
    _complain("unknown", unknown)
    return build_concepts(renamed, temperature=temperature, heads=heads)


def build_concepts(weights: Mapping[str, Tensor], *, temperature: float, heads: int) -> ConceptAligner:
    """Build the aligner that weights with our names have the shapes of; errors call them by their published names."""
    first = "finder.decoder.0.linear1.weight"
    _complain("missing", [name for name in ("temporal.positions", "finder.seeds", first) if name not in weights])
    seeds, positions = weights["finder.seeds"], weights["temporal.positions"]
    dim = seeds.shape[1]
    aligner = ConceptAligner(
        temporal=TemporalTransformer(
            dim, layers=_count_layers(weights, "temporal.blocks."), num_positions=len(positions)
        ),
        finder=ConceptFinder(
            dim,
            num_concepts=len(seeds),
            layers=_count_layers(weights, "finder.decoder."),
            heads=heads,
            hidden=len(weights[first]),
        ),
        temperature=temperature,
    )
    for kind, names in find_misfits(aligner.state_dict(), weights).items():
        _complain(kind, names)
    aligner.load_state_dict(weights)
    return aligner.eval()


def _count_layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})


def _complain(kind: str, names: Iterable[str]) -> None:
    """Refuse, calling our names by the published ones."""
    called = []
    for name in names:
        prefix = next((ours for ours in GLSCL if name.startswith(ours)), "")
        called.append(GLSCL.get(prefix, "") + name.removeprefix(prefix))
    if called:
        raise AlignerError(f"glscl: {len(called)} weights {kind}: {', '.join(sorted(called))}")
