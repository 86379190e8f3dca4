"""Parts of open_clip that are read without importing all of it, and what is spared by that."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.encode.tiny import save_clip
from vidret.encode import open_clip_parts
from vidret.encode.clip.text import NUM_PIECES
from vidret.encode.open_clip_parts import import_part, read_configs

HEAVY = {"open_clip", "transformers", "torchvision"}
if torch.__version__ >= "2.8":
    HEAVY.add("torch._dynamo")  # which einops imports for older versions


@pytest.fixture
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let open_clip be as if nothing had imported it."""
    monkeypatch.delitem(sys.modules, "open_clip")


@pytest.mark.usefixtures("_fresh")
def test_configurations_and_tags_are_those_of_open_clip() -> None:
    configs, pretrained = read_configs(), import_part("pretrained")
    published = {path.stem for path in (Path(open_clip.__file__).parent / "model_configs").glob("*.json")}
    assert list(configs) == [name for name in open_clip.list_models() if name in published]
    assert all(config == open_clip.get_model_config(name) for name, config in configs.items())
    assert pretrained.__name__ == "_open_clip_alone.pretrained"
    for architecture, tag in open_clip.list_pretrained():
        assert pretrained.get_pretrained_cfg(architecture, tag) == open_clip.get_pretrained_cfg(architecture, tag)


def import_tokenizer(patch: pytest.MonkeyPatch) -> ModuleType:
    patch.delitem(sys.modules, "open_clip")
    module: ModuleType = import_part("tokenizer")
    assert module.__name__ == "_open_clip_alone.tokenizer"
    return module


@given(st.text() | st.text("aZ'\u00e9&lt;#39 \n1!", max_size=300), st.sampled_from([3, 8, 77, 248]))
@example("", 77)
@example("&amp;amp; it&#39;s A DOG\u2019s caf\u00c3\u00a9 <end_of_text> \U0001f415 x2 " * 30, 77)
def test_texts_are_tokenized_as_open_clip_does(text: str, context_length: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        ids = import_tokenizer(patch).tokenize([text, "a dog"], context_length=context_length)
    assert ids.tolist() == open_clip.tokenize([text, "a dog"], context_length=context_length).tolist()
    assert ids.max() == NUM_PIECES - 1


@pytest.mark.parametrize(
    ("source", "imported"), [("", "_alone.tokenizer"), ("from . import FACT", "made_up.tokenizer")]
)
def test_a_version_of_open_clip_whose_parts_need_the_rest_is_imported_as_a_whole(
    source: str, imported: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "made_up"
    package.mkdir()
    configs = "FACT, configs = 1, {'vit': {'embed_dim': 8}}\nlist_models, get_model_config = configs.keys, configs.get"
    (package / "__init__.py").write_text(configs)
    (package / "tokenizer.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(open_clip_parts, "PACKAGE", "made_up")
    monkeypatch.setattr(open_clip_parts, "ALONE", "_alone")
    try:
        assert import_part("tokenizer").__name__ == imported
        assert read_configs() == {"vit": {"embed_dim": 8}}, "no files: the package says what it knows"
        assert import_part("tokenizer").__name__ == "made_up.tokenizer", "once it is imported, its own module is taken"
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in ("made_up", "_alone")]:
            del sys.modules[name]


PROGRAM = f"""
import sys
from vidret.encode.families.registry import load_encoder
from vidret.encode.model_list import list_catalog
from vidret.errors import UnknownEncoderError
assert any(entry.name == "ViT-B-32/openai" for entry in list_catalog(every=True))
try:
    load_encoder("ViT-B32/openai", device="cpu")
except UnknownEncoderError as error:
    assert "did you mean ViT-B-32/openai" in str(error)
for name in sys.argv[1:]:
    load_encoder(name, device="cpu").encode_text(["a dog"])
print({HEAVY!r} & {{*sys.modules}})
"""


def test_clip_loads_without_what_takes_seconds_to_import(tmp_path: Path) -> None:
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}
    text: dict[str, Any] = {"width": 64, "heads": 2, "layers": 2}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    (tmp_path / "vidret-small.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "vidret-small.json")
    save_file(open_clip.create_model("vidret-small").state_dict(), tmp_path / "open_clip_model.safetensors")
    names = [str(save_clip(tmp_path / "own.safetensors")), f"local-dir:{tmp_path}"]
    ran = subprocess.run([sys.executable, "-c", PROGRAM, *names], check=False, capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.stderr.strip()) == ("set()", "")
