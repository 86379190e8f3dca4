"""A published UCoFiA checkpoint's aligner to ours; shapes say what it is."""

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
# The published names on the left; * is a layer's number.
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
# The encoder's; and four matrices that are in every checkpoint and in no formula.
LEFT = re.compile(r"clip\.|(word_logit_weight|frame_mat_weight2?|word_mat_weight_for_pixel)$")


def convert_aligner(weights: Weights) -> Aligner:
    """Turn the aligner's part of a published UCoFiA state dict into an aligner; the rest is the encoder's.

    Raises:
        AlignerError: Lists the keys that are unknown, missing or of another shape, by their published names.
    """
    patterns = [(re.compile(re.escape(key).replace(r"\*", r"(\d+)") + "$"), own) for key, own in UCOFIA.items()]
    renamed, names, unknown = {}, {}, []
    for name, weight in weights.items():
        found = next(((match, own) for key, own in patterns if (match := key.match(name))), None)
        if found is not None:
            own = found[1].replace("*", found[0][1]) if found[0].groups() else found[1]
            renamed[own], names[own] = weight.float(), name
        elif not LEFT.match(name):
            unknown.append(name)
    _complain("unknown", unknown)
    if "logit_scale" in renamed:
        renamed["logit_scale"] = renamed["logit_scale"].reshape(())
    return build_aligner(renamed, {own: key for key, own in UCOFIA.items()} | names)


def build_aligner(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> Aligner:
    """Build an aligner of the shapes that weights with our names have; errors call them by ``names``.

    One of ours that compares merged tokens has no selector; a published one, which comes with names, always has.
    """
    selects = bool(names) or any(name.startswith("selector.") for name in weights)
    telling = [own for own in UCOFIA.values() if "*" not in own and (selects or not own.startswith("selector."))]
    _complain("missing", [names.get(own, own) for own in telling if own not in weights])
    for own in telling:
        if own.startswith("mixing.") and (weights[own].ndim != 2 or len(set(weights[own].shape)) > 1):
            _complain("not square", [names.get(own, own)])
    layers = len({name.split(".")[2] for name in weights if name.startswith("temporal.blocks.")})
    num_positions, dim = weights["temporal.positions"].shape
    num_frames, num_tokens = len(weights["mixing.frames"]), len(weights["mixing.tokens_first"])
    aligner = Aligner(
        temporal=TemporalTransformer(dim, layers=layers, num_positions=num_positions),
        selector=PatchSelector(ScoreNet(dim), kept=num_tokens // num_frames - 1) if selects else None,
        mixing=Mixing(dim, num_frames=num_frames, num_words=len(weights["mixing.words_first"]), num_tokens=num_tokens),
        unit_tokens=False,
    )
    state = aligner.state_dict()
    for kind, found in find_misfits(state, weights).items():
        called = [_published(name, names) for name in found]
        if kind == "of another shape":
            called = [
                f"{_published(name, names)} {tuple(weights[name].shape)} for {tuple(state[name].shape)}"
                for name in found
            ]
        _complain(kind, called)
    aligner.load_state_dict(weights)
    return aligner.eval()


def _published(name: str, names: Mapping[str, str]) -> str:
    """Give a weight's published name; a missing layer's by the pattern that would have named it."""
    number = re.search(r"\.(\d+)\.", name)
    pattern = names.get(name.replace(number[0], ".*.", 1)) if number else None
    return names.get(name) or (pattern.replace("*", number[1]) if pattern and number else name)


def _complain(what: str, keys: list[str]) -> None:
    if keys:
        raise AlignerError(f"{len(keys)} weights {what}: {', '.join(sorted(keys))}")
