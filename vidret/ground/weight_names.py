"""Weight names of published R2-Tuning checkpoints, mapped to vidret's."""

import re

# Prefixes of published names, and vidret's.
NAMES = {
    "adapter.gate": "block.gates",
    "adapter.scale": "block.scales",
    "adapter.v_map.": "block.token_key.",
    "adapter.q_map.": "block.word_key.",
    "adapter.video_map.": "block.video_map.",
    "adapter.query_map.": "block.query_map.",
    "adapter.tem.cross_att.q.": "block.refine.cross.query.",
    "adapter.tem.cross_att.k.": "block.refine.cross.key.",
    "adapter.tem.cross_att.v.": "block.refine.cross.value.",
    "adapter.tem.cross_att.m.": "block.refine.cross.out.",
    "adapter.tem.self_att.q.": "block.refine.own.query.",
    "adapter.tem.self_att.k.": "block.refine.own.key.",
    "adapter.tem.self_att.v.": "block.refine.own.value.",
    "adapter.tem.self_att.m.": "block.refine.own.out.",
    "adapter.tem.ffn.mapping.": "block.refine.mlp.",
    "adapter.tem.cross_att_norm.": "block.refine.cross_norm.",
    "adapter.tem.self_att_norm.": "block.refine.own_norm.",
    "adapter.tem.ffn_norm.": "block.refine.mlp_norm.",
    "pooling.att.": "pooling.score.",
    "class_head.module.1.": "classes.hidden.",
    "class_head.module.3.": "classes.out.",
    "coord_head.module.1.": "boundaries.hidden.",
    "coord_head.module.3.": "boundaries.out.",
    "coef": "reach",
}
# Softmax is invariant to a bias of the keys; the constant of the loss is not a weight of the head.
IGNORED = re.compile(r"adapter\.v_map\.bias$|loss\.")
# A published halving is a sequence of five modules, of which these have weights.
MODULES_PER_HALVING, WEIGHTED = 5, {1: "conv", 3: "norm"}


def from_published(name: str) -> str:
    """Return vidret's name of a published weight; unknown names are returned unchanged."""
    if match := re.fullmatch(r"pyramid\.blocks\.(\d+)\.(\d+)\.(\w+)", name):
        halving, module = divmod(int(match[2]), MODULES_PER_HALVING)
        if module not in WEIGHTED:
            return name
        return f"pyramid.levels.{match[1]}.{halving}.{WEIGHTED[module]}.{match[3]}"
    prefix = next((prefix for prefix in NAMES if name.startswith(prefix)), "")
    return NAMES.get(prefix, "") + name[len(prefix) :]


def to_published(name: str) -> str:
    """Return the published name of a weight of ``GroundingHead``."""
    if match := re.fullmatch(r"pyramid\.levels\.(\d+)\.(\d+)\.(\w+)\.(\w+)", name):
        module = next(module for module, kind in WEIGHTED.items() if kind == match[3])
        return f"pyramid.blocks.{match[1]}.{MODULES_PER_HALVING * int(match[2]) + module}.{match[4]}"
    prefix = next((prefix for prefix, own in NAMES.items() if name.startswith(own)), "")
    return prefix + name[len(NAMES.get(prefix, "")) :]
