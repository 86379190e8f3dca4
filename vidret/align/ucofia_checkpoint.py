"""Conversion of the aligner in a published UCoFiA checkpoint; sizes follow from the weights' shapes."""

import re
from collections.abc import Mapping

from torch import Tensor

from vidret.align.ucofia import Aligner
from vidret.align.ucofia_levels import Mixing
from vidret.align.ucofia_selection import PatchSelector, ScoreNet
from vidret.align.ucofia_temporal import TemporalTransformer
from vidret.errors import AlignerError
from vidret.layers import find_misfits

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
# Weights of the encoder, and four matrices that every checkpoint contains and no formula uses.
IGNORED = re.compile(r"clip\.|(word_logit_weight|frame_mat_weight2?|word_mat_weight_for_pixel)$")


def convert_aligner(weights: Weights) -> Aligner:
    """Convert the aligner in a published UCoFiA state dict; the encoder's weights are ignored.

    Raises:
        AlignerError: Weights are unknown, missing or of another shape; the message lists their published names.
    """
    patterns = [(re.compile(re.escape(key).replace(r"\*", r"(\d+)") + "$"), own) for key, own in UCOFIA.items()]
    renamed, names, unknown = {}, {}, []
    for name, weight in weights.items():
        for pattern, own_pattern in patterns:
            if match := pattern.match(name):
                own = own_pattern.replace("*", match[1]) if match.groups() else own_pattern
                renamed[own], names[own] = weight.float(), name
                break
        else:
            if not IGNORED.match(name):
                unknown.append(name)
    _refuse("unknown", unknown)
    if "logit_scale" in renamed:
        renamed["logit_scale"] = renamed["logit_scale"].reshape(())
    return build_aligner(renamed, {own: key for key, own in UCOFIA.items()} | names)


def build_aligner(weights: Mapping[str, Tensor], names: Mapping[str, str], *, unit_tokens: bool = False) -> Aligner:
    """Build an aligner from weights with its own names, with sizes that follow from their shapes.

    Args:
        weights: The aligner's state dict. Without ``names`` it may lack a selector, as for merged tokens.
        names: Published name of each own name, used in errors; empty for an aligner that vidret trained.
        unit_tokens: As in ``Aligner``; the published heads were trained without.

    Raises:
        AlignerError: Weights are unknown, missing or of another shape.
    """
    selects = bool(names) or any(name.startswith("selector.") for name in weights)
    required = [own for own in UCOFIA.values() if "*" not in own and (selects or not own.startswith("selector."))]
    _refuse("missing", [names.get(own, own) for own in required if own not in weights])
    for own in required:
        if own.startswith("mixing.") and (weights[own].ndim != 2 or len(set(weights[own].shape)) > 1):
            _refuse("not square", [names.get(own, own)])
    layers = len({name.split(".")[2] for name in weights if name.startswith("temporal.blocks.")})
    num_positions, dim = weights["temporal.positions"].shape
    num_frames, num_tokens = len(weights["mixing.frames"]), len(weights["mixing.tokens_first"])
    aligner = Aligner(
        temporal=TemporalTransformer(dim, layers=layers, num_positions=num_positions),
        selector=PatchSelector(ScoreNet(dim), kept=num_tokens // num_frames - 1) if selects else None,
        mixing=Mixing(dim, num_frames=num_frames, num_words=len(weights["mixing.words_first"]), num_tokens=num_tokens),
        unit_tokens=unit_tokens,
    )
    state = aligner.state_dict()
    for kind, misfits in find_misfits(state, weights).items():
        published = [_published(name, names) for name in misfits]
        if kind == "of another shape":
            published = [
                f"{_published(name, names)} {tuple(weights[name].shape)} for {tuple(state[name].shape)}"
                for name in misfits
            ]
        _refuse(kind, published)
    aligner.load_state_dict(weights)
    return aligner.eval()


def _published(name: str, names: Mapping[str, str]) -> str:
    """Return a weight's published name; for a weight of a missing layer, the name that it would have."""
    layer = re.search(r"\.(\d+)\.", name)
    pattern = names.get(name.replace(layer[0], ".*.", 1)) if layer else None
    return names.get(name) or (pattern.replace("*", layer[1]) if pattern and layer else name)


def _refuse(kind: str, names: list[str]) -> None:
    """Raise an error that lists weights, if there are any."""
    if names:
        raise AlignerError(f"{len(names)} weights {kind}: {', '.join(sorted(names))}")
