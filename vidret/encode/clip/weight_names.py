"""Weight names of published checkpoints, mapped to vidret's.

One table per source: name patterns of the checkpoint to names of ``ClipModel``; ``*`` stands for a layer's index.
"""

from collections.abc import Mapping

Names = Mapping[str, str]

PROMPT_KEY = "clip.vision_model.encoder.prompt_embedding"

_OPEN_BLOCK = {
    "attn.in_proj_weight": "attn.in_proj_weight",
    "attn.in_proj_bias": "attn.in_proj_bias",
    "attn.out_proj.weight": "attn.out_proj.weight",
    "attn.out_proj.bias": "attn.out_proj.bias",
    "ln_1.weight": "ln_1.weight",
    "ln_1.bias": "ln_1.bias",
    "ln_2.weight": "ln_2.weight",
    "ln_2.bias": "ln_2.bias",
    "mlp.c_fc.weight": "mlp.c_fc.weight",
    "mlp.c_fc.bias": "mlp.c_fc.bias",
    "mlp.c_proj.weight": "mlp.c_proj.weight",
    "mlp.c_proj.bias": "mlp.c_proj.bias",
}
_LORA = {"attn.TVPt_LoRA_a": "attn.lora.a", "attn.TVPt_LoRA_b": "attn.lora.b"}
OPEN_CLIP: Names = {
    "visual.conv1.weight": "vision.patches.weight",
    "visual.class_embedding": "vision.class_embedding",
    "visual.positional_embedding": "vision.positions",
    "visual.proj": "vision.proj",
    **{
        f"visual.{norm}.{part}": f"vision.{norm}.{part}"
        for norm in ("ln_pre", "ln_post")
        for part in ("weight", "bias")
    },
    **{f"visual.transformer.resblocks.*.{key}": f"vision.blocks.*.{own}" for key, own in _OPEN_BLOCK.items()},
    "token_embedding.weight": "text.embedding.weight",
    "positional_embedding": "text.positions",
    "text_projection": "text.proj",
    "ln_final.weight": "text.ln_final.weight",
    "ln_final.bias": "text.ln_final.bias",
    **{f"transformer.resblocks.*.{key}": f"text.blocks.*.{own}" for key, own in _OPEN_BLOCK.items()},
    "logit_scale": "logit_scale",
}
TEMPME: Names = {
    **{f"clip.{key}": own for key, own in OPEN_CLIP.items()},
    **{f"clip.visual.transformer.resblocks.*.{key}": f"vision.blocks.*.{own}" for key, own in _LORA.items()},
    **{f"clip.transformer.resblocks.*.{key}": f"text.blocks.*.{own}" for key, own in _LORA.items()},
    "clip.visual.transformer.resblocks.*.TVPt_Video_Positional_embedding": "vision.temporal.*",
}
_SHIFTED = {key: own for key, own in _OPEN_BLOCK.items() if key.startswith("attn.")}
UCOFIA: Names = {
    **{f"clip.{key}": own for key, own in OPEN_CLIP.items()},
    # UCoFiA's token shift wraps, and so renames, the attention of the last two blocks.
    **{
        f"clip.visual.transformer.resblocks.*.{key.replace('attn.', 'attn.net.', 1)}": f"vision.blocks.*.{own}"
        for key, own in _SHIFTED.items()
    },
}
_HF_BLOCK = {
    **{f"self_attn.out_proj.{part}": f"attn.out_proj.{part}" for part in ("weight", "bias")},
    **{f"self_attn.qkv.{part}": f"attn.in_proj_{part}" for part in ("weight", "bias")},  # packed by pack_attention
    **{f"layer_norm{n}.{part}": f"ln_{n}.{part}" for n in (1, 2) for part in ("weight", "bias")},
    **{f"mlp.fc1.{part}": f"mlp.c_fc.{part}" for part in ("weight", "bias")},
    **{f"mlp.fc2.{part}": f"mlp.c_proj.{part}" for part in ("weight", "bias")},
}
PROMPT_SWITCH: Names = {
    "clip.vision_model.embeddings.class_embedding": "vision.class_embedding",
    "clip.vision_model.embeddings.patch_embedding.weight": "vision.patches.weight",
    "clip.vision_model.embeddings.position_embedding.weight": "vision.positions",
    **{f"clip.vision_model.pre_layrnorm.{part}": f"vision.ln_pre.{part}" for part in ("weight", "bias")},
    **{f"clip.vision_model.post_layernorm.{part}": f"vision.ln_post.{part}" for part in ("weight", "bias")},
    **{f"clip.vision_model.encoder.layers.*.{key}": f"vision.blocks.*.{own}" for key, own in _HF_BLOCK.items()},
    PROMPT_KEY: "vision.prompts.cube",
    "clip.vision_model.attn.in_proj_weight": "vision.prompts.aggregation.in_proj_weight",
    "clip.vision_model.attn.in_proj_bias": "vision.prompts.aggregation.in_proj_bias",
    **{
        f"clip.vision_model.attn.out_proj.{part}": f"vision.prompts.aggregation.out_proj.{part}"
        for part in ("weight", "bias")
    },
    "clip.visual_projection.weight": "vision.proj",
    "clip.text_model.embeddings.token_embedding.weight": "text.embedding.weight",
    "clip.text_model.embeddings.position_embedding.weight": "text.positions",
    **{f"clip.text_model.final_layer_norm.{part}": f"text.ln_final.{part}" for part in ("weight", "bias")},
    **{f"clip.text_model.encoder.layers.*.{key}": f"text.blocks.*.{own}" for key, own in _HF_BLOCK.items()},
    "clip.text_projection.weight": "text.proj",
    "clip.logit_scale": "logit_scale",
}
