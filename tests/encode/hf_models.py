"""Tiny models of transformers with random weights, saved to a folder as published ones are."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from vidret.encode.model_hub import hide_progress

transformers: Any = importlib.import_module("transformers")  # whose annotations are incomplete
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?你好狗猫"
VOCABULARY = ["<pad>", "<unk>", "<s>", "</s>", *LETTERS]
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**TOWER, "vocab_size": len(VOCABULARY), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
IMAGE = {**TOWER, "image_size": 32, "patch_size": 8}
LOUD = ("align", "pe_audio_video")  # smaller weights would hardly see or hear anything
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]


@dataclass(frozen=True)
class TinyModel:
    """How a tiny model is made: its configuration, its processor of frames, and the longest text."""

    make_config: Callable[[], Any]
    make_processor: Callable[[], Any]
    context: int


def make_tokenizer(context: int) -> Any:
    """Return a tokenizer of letters with a start and an end token."""
    letters = Tokenizer(models.WordLevel({letter: token_id for token_id, letter in enumerate(VOCABULARY)}, "<unk>"))
    letters.normalizer = normalizers.Lowercase()
    letters.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    letters.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=letters,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=context,
        model_input_names=["input_ids", "attention_mask"],
    )


def _crops() -> Any:
    crop = {"height": 32, "width": 32}
    return transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop, image_mean=MEAN, image_std=STD)


def _squashes() -> Any:
    return transformers.SiglipImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def _align() -> Any:
    vision = {"image_size": 96, "hidden_dim": 40, "width_coefficient": 0.2, "depth_coefficient": 0.2}
    text = {**TEXT, "max_position_embeddings": 80}
    return transformers.AlignConfig(text_config=text, vision_config=vision, projection_dim=64)


def _align_processor() -> Any:
    return transformers.EfficientNetImageProcessor(
        size={"height": 112, "width": 112},
        crop_size={"height": 96, "width": 96},  # a map of 3 x 3, since reranking wants some patches
        do_center_crop=True,
        resample=2,
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        do_normalize=False,
        include_top=False,
    )


def _alt() -> Any:
    text = {**TEXT, "project_dim": 32, "max_position_embeddings": 90, "pooler_fn": "cls"}
    return transformers.AltCLIPConfig(text_config=text, vision_config=IMAGE, projection_dim=24)


def _x_clip() -> Any:
    mit = {f"mit_{key}": value for key, value in TOWER.items()} | {"mit_hidden_size": 24}
    vision = {**IMAGE, "num_frames": 4, **mit}
    text = {**TEXT, "max_position_embeddings": 20}
    return transformers.XCLIPConfig(text_config=text, vision_config=vision, projection_dim=24)


def _videoprism() -> Any:
    towers = {"num_spatial_layers": 1, "num_temporal_layers": 1, "num_auxiliary_layers": 1}
    vision = {**TOWER, **towers, "image_size": 32, "tubelet_size": [1, 8, 8], "num_frames": 4}
    return transformers.VideoPrismConfig(text_config={**TEXT, "max_position_embeddings": 64}, vision_config=vision)


def _videoprism_processor() -> Any:
    return transformers.LlavaOnevisionVideoProcessor(size={"height": 32, "width": 32}, do_normalize=False)


def _pe_encoder(**parts: Any) -> dict[str, Any]:
    return {**TOWER, "num_hidden_layers": 1, "head_dim": 8, **parts}


def _pe_frames() -> dict[str, Any]:
    trunk = {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 4}
    vision = {"architecture": "vit_pe_core_tiny_patch16_384", "num_classes": 16, "model_args": trunk}
    return _pe_encoder(vision_config={"model_type": "timm_wrapper", **vision})


def _pe_text() -> dict[str, Any]:
    return {**TEXT, "model_type": "modernbert", "max_position_embeddings": 40, "cls_token_id": 2, "sep_token_id": 3}


def _pe_video() -> Any:
    return transformers.PeVideoConfig(text_config=_pe_text(), video_config=_pe_frames())


def _pe_audio_video() -> Any:
    codec = {"model_type": "dac", "encoder_hidden_size": 4, "downsampling_ratios": [2, 2], "codebook_dim": 8}
    audio = _pe_encoder(model_type="pe_audio_encoder", dac_config=codec)
    both = _pe_encoder(audio_config=audio, video_config={"model_type": "pe_video_encoder", **_pe_frames()})
    return transformers.PeAudioVideoConfig(text_config=_pe_text(), audio_video_config=both)


def _pe_processor(num_frames: int | None = 4) -> Any:
    return transformers.PeVideoVideoProcessor(
        size={"height": 32, "width": 32},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        num_frames=num_frames,
        do_sample_frames=num_frames is not None,
    )


def _clip(context: int, make: Callable[..., Any], **text: Any) -> Callable[[], Any]:
    words = {**TEXT, "max_position_embeddings": context, **text}
    return lambda: make(text_config=words, vision_config=IMAGE, projection_dim=24)


def _siglip() -> Any:
    return transformers.SiglipConfig(text_config={**TEXT, "max_position_embeddings": 16}, vision_config=IMAGE)


def _siglip2() -> Any:
    vision = {**TOWER, "patch_size": 8, "num_patches": 16}
    return transformers.Siglip2Config(text_config={**TEXT, "max_position_embeddings": 16}, vision_config=vision)


def _naflex() -> Any:
    return transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16, image_mean=MEAN, image_std=STD)


TINY: Mapping[str, TinyModel] = {
    "clip": TinyModel(_clip(20, transformers.CLIPConfig), _crops, 20),
    "metaclip_2": TinyModel(_clip(20, transformers.MetaClip2Config), _crops, 20),
    "altclip": TinyModel(_alt, _crops, 77),
    "chinese_clip": TinyModel(_clip(60, transformers.ChineseCLIPConfig), _crops, 52),
    "siglip": TinyModel(_siglip, _squashes, 16),
    "siglip2": TinyModel(_siglip2, _naflex, 16),
    "align": TinyModel(_align, _align_processor, 64),
    "xclip": TinyModel(_x_clip, _crops, 20),
    "videoprism": TinyModel(_videoprism, _videoprism_processor, 64),
    "pe_video": TinyModel(_pe_video, _pe_processor, 40),
    "pe_audio_video": TinyModel(_pe_audio_video, _pe_processor, 40),
}


def save_tiny(kind: str, folder: Path) -> Path:
    """Write a tiny random model of a family with its tokenizer and processor, and return the folder."""
    tiny = TINY[kind]
    torch.manual_seed(4 if kind == "pe_audio_video" else 0)  # with some seeds it gives all images nearly one vector
    with hide_progress():
        model = transformers.AutoModel.from_config(tiny.make_config()).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():  # some start at zero, and their use would not be seen
            if weight.ndim > (1 if kind == "align" else 0) and "logit" not in name:
                weight.add_(torch.randn_like(weight), alpha=0.3 if kind in LOUD else 0.05)
    model.save_pretrained(folder)
    tokenizer, processor = make_tokenizer(tiny.context), tiny.make_processor()
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    if kind == "videoprism":
        transformers.VideoPrismProcessor(processor, tokenizer).save_pretrained(folder)
    if kind == "pe_video":
        transformers.PeVideoProcessor(processor, tokenizer).save_pretrained(folder)
    if kind == "pe_audio_video":
        sound = transformers.PeAudioFeatureExtractor(sampling_rate=400, hop_length=4)
        transformers.PeAudioVideoProcessor(sound, processor, tokenizer).save_pretrained(folder)
    return folder


def load_theirs(folder: Path, kind: str = "AutoModel") -> Any:
    """Return a model as the library itself loads it."""
    with hide_progress():
        return getattr(transformers, kind).from_pretrained(folder).eval()


def save_tiny_sound(kind: str, folder: Path) -> Path:
    """Write a tiny random CLAP, PE-A-Frame or AST with its tokenizer and its extractor, and return the folder."""
    torch.manual_seed(0)
    with hide_progress():
        if kind == "clap":
            audio = {
                "num_mel_bins": 8,
                "spec_size": 32,
                "window_size": 4,
                "patch_embeds_hidden_size": 16,
                "depths": [1, 1],
            }
            audio |= {"num_attention_heads": [2, 2], "hidden_size": 32, "num_hidden_layers": 2, "projection_dim": 24}
            text = {**TEXT, "max_position_embeddings": 42, "type_vocab_size": 1, "projection_dim": 24}
            config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=24)
            model = transformers.ClapModel(config)
            mel = {"feature_size": 8, "hop_length": 64, "fft_window_size": 128, "frequency_max": 350}
            sound = transformers.ClapFeatureExtractor(sampling_rate=800, **mel)
        elif kind == "ast":
            sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
            mel = {"num_mel_bins": 16, "max_length": 204}
            names = dict(enumerate(["Dog", "Music", "Child speech, kid speaking"]))
            config = transformers.ASTConfig(**sizes, **mel, patch_size=8, id2label=names)
            model = transformers.ASTForAudioClassification(config)
            sound = transformers.ASTFeatureExtractor(**mel)
        else:
            codec = {"model_type": "dac", "encoder_hidden_size": 4, "downsampling_ratios": [2, 2], "codebook_dim": 8}
            config = transformers.PeAudioConfig(text_config=_pe_text(), audio_config=_pe_encoder(dac_config=codec))
            model = transformers.PeAudioFrameLevelModel(config)
            sound = transformers.PeAudioFeatureExtractor(sampling_rate=100, hop_length=4)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    model.save_pretrained(folder)
    make_tokenizer(40).save_pretrained(folder)
    sound.save_pretrained(folder)
    return folder


def save_tiny_sentences(kind: str, folder: Path, **settings: Any) -> Path:
    """Write a tiny model of images and texts as sentence-transformers does; skip the test if it is not installed."""
    library = pytest.importorskip("sentence_transformers", minversion="6.2")
    tiny = save_tiny(kind, folder / "tiny")
    make = {"clip": transformers.CLIPProcessor, "siglip": transformers.SiglipProcessor}[kind]
    parts = (transformers.AutoImageProcessor.from_pretrained(tiny), transformers.AutoTokenizer.from_pretrained(tiny))
    make(*parts).save_pretrained(tiny)
    library.SentenceTransformer(str(tiny), device="cpu", **settings).save(str(folder / "st"))
    return folder / "st"


def save_tiny_text_model(folder: Path, *, seed: int = 0, **settings: Any) -> Path:
    """Write a tiny BERT as sentence-transformers does, of 16 dimensions; skip the test if it is not installed."""
    library = pytest.importorskip("sentence_transformers", minversion="6.2")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(**sizes, vocab_size=len(VOCABULARY), pad_token_id=0, max_position_embeddings=64)
    torch.manual_seed(seed)
    with hide_progress():
        model = transformers.BertModel(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.3)
        model.save_pretrained(folder / "tiny")
        make_tokenizer(60).save_pretrained(folder / "tiny")
        library.SentenceTransformer(str(folder / "tiny"), device="cpu", **settings).save(str(folder / "st"))
    return folder / "st"


QWEN_TOKENS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
# What the template of Qwen3-VL writes for a system turn and a user turn of texts and videos.
QWEN_TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% for item in message.content -%}
{%- if item.type == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>{%- else -%}{{ item.text }}{%- endif -%}
{%- endfor -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""


def save_tiny_qwen(folder: Path, chat_template: str | None = QWEN_TEMPLATE) -> Path:
    """Write a tiny random Qwen3-VL with a language-model head, as the released ones have, and return the folder."""
    tokenizer = make_tokenizer(8192)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    tokenizer.add_special_tokens({"additional_special_tokens": QWEN_TOKENS})
    ids = dict(zip(QWEN_TOKENS, tokenizer.convert_tokens_to_ids(QWEN_TOKENS), strict=True))
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32}
    text = {**sizes, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": len(tokenizer), "max_position_embeddings": 9000}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
    vision = {**sizes, "depth": 2, "num_heads": 4, "out_hidden_size": 32}
    vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    config = transformers.Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(0)
    with hide_progress():
        model = transformers.Qwen3VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)
    model.save_pretrained(folder)
    size = {"shortest_edge": 4096, "longest_edge": 1 << 20}
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    video = transformers.Qwen3VLVideoProcessor(size=size, **half)
    images = transformers.Qwen2VLImageProcessor(size=size, patch_size=16, **half)
    transformers.Qwen3VLProcessor(images, tokenizer, video, chat_template=chat_template).save_pretrained(folder)
    return folder
