"""Patches and words in the joint space, of the kinds of towers that open_clip has."""

from typing import Any

import open_clip
from einops import rearrange, repeat
from torch import Tensor, nn

from vidret.errors import EncoderError


def fuse_branches(model: Any) -> Any:
    """Return a model in evaluation mode with each block of several branches fused to one convolution, as MobileCLIP's.

    Vectors stay equal up to rounding, frames are encoded faster. Other models are returned as they are.
    """
    if not any(hasattr(module, "reparameterize") for module in model.modules()):
        return model
    from timm.utils.model import reparameterize_model

    return reparameterize_model(model, inplace=True)


def encode_with_patches(name: str, visual: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the vectors of images (frame, dim) and of their patches (frame, patch, dim), not normalised.

    Raises:
        EncoderError: The tower is neither a ViT with a projection nor a trunk of timm, or its pooling takes whole
            images only.
    """
    if isinstance(visual, open_clip.timm_model.TimmModel):
        return _encode_timm(name, visual, images)
    plain = isinstance(visual, open_clip.transformer.VisionTransformer) and visual.attn_pool is None
    if not plain or visual.proj is None:
        raise EncoderError(f"tokens must come from a ViT with a projection or a trunk of timm, got {name}")
    states = visual.forward_intermediates(images, indices=1, output_fmt="NLC", normalize_intermediates=True)
    return states["image_features"], states["image_intermediates"][-1] @ visual.proj


def _encode_timm(name: str, visual: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Encode by a trunk of timm: a patch's vector is what the trunk's own pooling and head make of it alone.

    Raises:
        EncoderError: The pooling takes whole images only.
    """
    trunk = visual.trunk
    features = trunk.forward_features(images)
    vectors = visual.head(trunk.forward_head(features))
    if features.ndim == 4:  # a map: frame, width, row, column
        single = rearrange(features, "frame width row column -> (frame row column) width 1 1")
    else:  # class tokens first; a patch stands in for them too
        prefix = int(getattr(trunk, "num_prefix_tokens", 0))
        single = rearrange(features[:, prefix:], "frame patch width -> (frame patch) width")
        single = repeat(single, "patch width -> patch token width", token=prefix + 1)
    try:
        patches = visual.head(trunk.forward_head(single))
    except (RuntimeError, AssertionError) as error:
        raise EncoderError(f"tokens must come from a tower that can pool single patches, got {name}") from error
    return vectors, rearrange(patches, "(frame patch) dim -> frame patch dim", frame=len(images))


def project_words(text_tower: Any, output: Any) -> Tensor:
    """Return the states of words in the joint space (text, word, dim), from the output of a text transformer."""
    if hasattr(text_tower, "proj"):  # a text tower of transformers
        projected: Tensor = text_tower.proj(output.last_hidden_state)
        return projected
    states, projection = text_tower.ln_final(output), text_tower.text_projection
    words: Tensor = projection(states) if isinstance(projection, nn.Module) else states @ projection
    return words


def find_tokenizer_files(text: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the repositories that a text tower's configuration needs from transformers, each with a file of it."""
    names = (("hf_tokenizer_name", "tokenizer_config.json"), ("hf_model_name", "config.json"))
    return [(str(text[key]), file) for key, file in names if text.get(key)]
