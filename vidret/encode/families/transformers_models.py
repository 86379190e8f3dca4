"""The supported model types of transformers, with the functions that encode frames, videos, patches and words.

A patch's vector is the output of the model's pooling and projection for that patch alone, and likewise for words, so
that these vectors are in the joint space.
"""

import logging
import math
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from vidret.encode.encoder import normalise_pixels
from vidret.errors import EncoderError
from vidret.types import Interpolation, Resize

Inputs = Mapping[str, Tensor]
Constants = tuple[float, ...]  # per colour channel, on the scale 0..1
PUNCTUATION = str.maketrans(string.punctuation, " " * len(string.punctuation))
PE_FRAMES = 16  # as in PE-AV models with a fixed number, for those without
logger = logging.getLogger(__name__)

# Pillow's numbers of the filters. The decoding processes do not have Lanczos.
FILTERS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}


def spread_frames(num_frames: int, wanted: int) -> list[int]:
    """Return the indices of ``wanted`` frames spread evenly over a segment; frames of a short one are repeated.

    >>> spread_frames(3, 5)
    [0, 0, 1, 2, 2]
    """
    return [int(index) for index in torch.linspace(0, num_frames - 1, wanted).round()]


def spread_frames_down(num_frames: int, wanted: int) -> list[int]:
    """Return the same as ``spread_frames`` with fractions rounded down, as the processor of PE-Video does.

    >>> spread_frames_down(3, 6)
    [0, 0, 0, 1, 1, 2]
    """
    return [index * (num_frames - 1) // max(wanted - 1, 1) for index in range(wanted)]


def _normalise_images(_model: Any, pixels: Tensor, mean: Constants, std: Constants, dtype: torch.dtype) -> Tensor:
    return normalise_pixels(pixels, mean, std, dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelType:
    """The calls of a model type of transformers.

    Attributes:
        encode: From the model and its pixels, (frame, 3, height, width) or (video, frame, 3, height, width), to the
            outputs of its tower, with the vectors as ``pooler_output``.
        normalise: From the model, uint8 pixels (frame, height, width, 3), mean, standard deviation and type to pixels.
        patches: From the model and these outputs to vectors of patches, (frame, patch, dim); None without patches.
        texts: From the model and the tokens of texts to the outputs of its text tower, likewise.
        words: From the model and the states of a text, (text, word, width), to vectors of words; None without them.
        context: Number of tokens of texts in training; None if the configuration has it.
        pads: Whether the text tower was trained on texts padded to the full length.
        num_frames: From the configuration and the processor to the number of frames that a video-native model takes as
            one video; None for a model of images.
        choose: From the number of frames of a segment and this number to the indices of the frames to encode.
        hear: From the model, its pixels and the inputs of its sound to outputs, for a video-native model with sound; it
            replaces ``encode``.
        canonicalise: From a text to the form that the model was trained on.
    """

    encode: Callable[[Any, Tensor], Any]
    normalise: Callable[[Any, Tensor, Constants, Constants, torch.dtype], Tensor] = _normalise_images
    patches: Callable[[Any, Any], Tensor] | None = None
    texts: Callable[[Any, Inputs], Any] = lambda model, tokens: model.get_text_features(**tokens)
    words: Callable[[Any, Tensor], Tensor] | None = None
    context: int | None = None
    pads: bool = False
    num_frames: Callable[[Any, Any], int] | None = None
    choose: Callable[[int, int], list[int]] = spread_frames
    hear: Callable[[Any, Tensor, Inputs], Any] | None = None
    canonicalise: Callable[[str], str] = str


def _encode_images(model: Any, pixels: Tensor) -> Any:
    return model.get_image_features(pixel_values=pixels)


def _normalise_patches(model: Any, pixels: Tensor, mean: Constants, std: Constants, dtype: torch.dtype) -> Tensor:
    """Return patches as rows of their pixels, channels last: (frame, patch, value)."""
    patch = model.config.vision_config.patch_size
    rows = rearrange(pixels, "frame (row y) (column x) c -> frame (row column) (y x c)", y=patch, x=patch)
    centre, spread = (torch.tensor(values, device=rows.device).repeat(patch * patch) for values in (mean, std))
    return rows.float().mul_(1 / (255 * spread)).add_(-centre / spread).to(dtype)


def _encode_naflex(model: Any, rows: Tensor) -> Any:
    """Encode the patches of square images."""
    side = math.isqrt(rows.shape[1])
    shapes = torch.full((len(rows), 2), side, device=rows.device)
    mask = torch.ones(rows.shape[:2], dtype=torch.int32, device=rows.device)
    return model.get_image_features(pixel_values=rows, pixel_attention_mask=mask, spatial_shapes=shapes)


def _project_patches(model: Any, output: Any) -> Tensor:
    """Normalise and project all states but the class token's, in the same way as the class token's."""
    projected: Tensor = model.visual_projection(model.vision_model.post_layernorm(output.last_hidden_state[:, 1:]))
    return projected


def _pool_patches(model: Any, output: Any) -> Tensor:
    """Pass each patch alone to the attention that pools all patches."""
    states = output.last_hidden_state
    pooled = model.vision_model.head(rearrange(states, "frame patch width -> (frame patch) 1 width"))
    patches: Tensor = rearrange(pooled, "(frame patch) dim -> frame patch dim", frame=len(states))
    return patches


def _flatten_map(model: Any, output: Any) -> Tensor:
    """Return the cells of a convolutional map; their mean is the image's vector."""
    cells: Tensor = rearrange(output.last_hidden_state, "frame dim row column -> frame (row column) dim")
    return cells


def _apply_head(model: Any, head: str, output: Any, states: Tensor) -> Any:
    """Return the output of a part of PE-AV with the vectors of the full model's forward pass.

    The model cannot encode only videos or only texts.
    """
    output["pooler_output"] = getattr(model, head)(states)
    return output


def _encode_pe_videos(model: Any, pixels: Tensor) -> Any:
    output = model.video_encoder(pixel_values_videos=pixels)
    return _apply_head(model, "video_head", output, output.pooler_output)


def _hear_videos(model: Any, pixels: Tensor, sound: Inputs) -> Any:
    output = model.audio_video_encoder(pixel_values_videos=pixels, **sound)
    return _apply_head(model, "audio_video_head", output, output.pooler_output)


def _encode_pe_texts(model: Any, tokens: Inputs, head: str) -> Any:
    """Encode texts by the head for their counterpart, such as videos; the class token represents the text."""
    output = model.text_model(**tokens)
    return _apply_head(model, head, output, output.last_hidden_state[:, 0])


def canonicalise(text: str) -> str:
    """Return a text in the form of VideoPrism's training; neither its processor in transformers nor MTEB does this.

    >>> canonicalise("Hello,  World!")
    'hello world.'
    """
    return " ".join(text.translate(PUNCTUATION).lower().split()) + "."


def _count_pe_frames(config: Any, processor: Any) -> int:
    if processor.num_frames:
        return int(processor.num_frames)
    logger.warning(
        "%s was trained on all frames of a video; it sees %d of each segment", config.name_or_path, PE_FRAMES
    )
    return PE_FRAMES


_CLIP = ModelType(
    encode=_encode_images, patches=_project_patches, words=lambda model, states: model.text_projection(states)
)
_SIGLIP = ModelType(
    encode=_encode_images, patches=_pool_patches, words=lambda model, states: model.text_model.head(states), pads=True
)
_VIDEO = ModelType(
    encode=lambda model, pixels: model.get_video_features(pixel_values_videos=pixels),
    num_frames=lambda config, _processor: int(config.vision_config.num_frames),
)
_PE = ModelType(
    encode=_encode_pe_videos,
    texts=partial(_encode_pe_texts, head="text_video_head"),
    words=lambda model, states: model.text_video_head(states),
    num_frames=_count_pe_frames,
    choose=spread_frames_down,
)
# By the model_type of the configuration. Context lengths are those of the models' training and processors.
MODEL_TYPES: Mapping[str, ModelType] = {
    "clip": _CLIP,
    "metaclip_2": _CLIP,
    "altclip": replace(_CLIP, context=77),
    "chinese_clip": replace(_CLIP, context=52),
    "siglip": _SIGLIP,
    "siglip2": replace(_SIGLIP, encode=_encode_naflex, normalise=_normalise_patches),
    "align": replace(_CLIP, patches=_flatten_map, context=64, pads=True),
    "xclip": replace(
        _VIDEO, encode=lambda model, pixels: model.get_video_features(pixel_values=pixels), words=_CLIP.words
    ),
    "videoprism": replace(_VIDEO, context=64, pads=True, canonicalise=canonicalise),
    "pe_video": _PE,
    "pe_audio_video": replace(
        _PE,
        hear=_hear_videos,
        texts=partial(_encode_pe_texts, head="text_audio_video_head"),
        words=lambda model, states: model.text_audio_video_head(states),
    ),
}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The size of frames, and mean and standard deviation of channels on the scale 0..1."""

    resize: Resize
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_preprocessing(name: str, processor: Any) -> Preprocessing:
    """Return the preprocessing of a processor for images or videos.

    A processor computes ((pixel * factor - offset) - mean) / std; mean and std returned here absorb the offset, and the
    factor is 1 / 255. Raise EncoderError if its images are not square, or its filter is neither bilinear nor bicubic.
    """
    factor = float(processor.rescale_factor) if processor.do_rescale else 1.0
    offset = 1.0 if getattr(processor, "rescale_offset", False) else 0.0
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if processor.do_normalize:
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    if getattr(processor, "include_top", False):  # EfficientNet's processor divides by the deviation again
        std = tuple(a * b for a, b in zip(std, processor.image_std, strict=True))
    scale = 255 * factor
    return Preprocessing(
        read_frame_size(name, processor),
        tuple((value + offset) / scale for value in mean),
        tuple(value / scale for value in std),
    )


def read_frame_size(name: str, processor: Any) -> Resize:
    """Return the resizing and cropping of a processor; raise EncoderError as ``read_preprocessing`` does."""
    resample = int(processor.resample)
    if resample not in FILTERS:
        raise EncoderError(
            f"{name}: the processor's filter must be bilinear or bicubic, got Pillow's number {resample}"
        )
    patches = getattr(processor, "max_num_patches", None)
    if patches is not None:  # a square with the trained number of patches
        side = math.isqrt(patches) * processor.patch_size
        return Resize(side, side, FILTERS[resample], squash=True)
    size = dict(processor.size)
    shorter = size.get("shortest_edge") or size.get("height")
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else {}
    sides = {size[key] for key in ("height", "width") if size.get(key)}
    crops = {crop[key] for key in ("height", "width") if crop.get(key)}
    if not shorter or len(sides) > 1 or len(crops) > 1:
        raise EncoderError(f"{name}: the processor must make square images, got size {size} and crop {crop}")
    side = crops.pop() if crops else shorter
    return Resize(shorter, side, FILTERS[resample], squash="shortest_edge" not in size or not size["shortest_edge"])
