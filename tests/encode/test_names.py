"""Names of models: one parser, and which family a name belongs to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidret.encode.families.registry import find_family, is_elsewhere
from vidret.encode.names import (
    MERGE_LEVELS,
    RECOMMENDED,
    ModelName,
    drop_sampling,
    parse_model_name,
    resolve_name,
    set_merge,
)
from vidret.errors import EncoderError


@given(st.from_regex(r"[A-Za-z0-9_./:?=-]{1,30}", fullmatch=True), st.sampled_from(MERGE_LEVELS), st.booleans())
def test_a_written_name_is_parsed_again(base: str, merge: str, whole: bool) -> None:
    name = ModelName(base, next(level for level in MERGE_LEVELS if level == merge), whole)
    assert parse_model_name(str(name)) == name
    assert parse_model_name(drop_sampling(str(name))) == ModelName(base, name.merge)
    assert parse_model_name(set_merge(str(name), "half")) == ModelName(base, "half", whole)
    assert name.rest in base
    assert base in (name.architecture, f"{name.architecture}/{name.weights}")


@given(st.integers(1, 10**8), st.floats(1e-3, 1e6))
def test_a_number_in_a_name_is_written_whole(number: int, exact: float) -> None:
    name = ModelName("a/b", frames=number, pixels=number, fps=exact, until_s=exact)
    assert parse_model_name(str(name)) == name
    assert str(ModelName("a/b", fps=2.0, until_s=29.97)) == "a/b#fps=2#until=29.97"
    with pytest.raises(EncoderError, match="#fps must be a positive number, got inf"):
        parse_model_name("a/b#fps=inf")


@pytest.mark.parametrize(
    ("name", "family", "scheme", "rest", "elsewhere"),
    [
        ("starter", "starter", "", "starter", False),
        ("hf:org/name", "hf", "hf", "org/name", True),
        ("hf:FOLDER", "hf", "hf", "FOLDER", True),  # it also looks like a class
        ("st:/a/model.safetensors", "st", "st", "/a/model.safetensors", True),
        ("endpoint:https://a.example:80/v1?model=m", "endpoint", "endpoint", "https://a.example:80/v1?model=m", True),
        ("package.module:Class", "custom", "package.module", "Class", True),
        ("hf-hub:org/name", "clip", "hf-hub", "org/name", True),
        ("local-dir:model.pt", "clip", "local-dir", "model.pt", True),
        ("ViT-B-32/openai", "clip", "", "ViT-B-32/openai", True),
        ("ViT-B-32//a/b.pt", "clip", "", "ViT-B-32//a/b.pt", False),
        ("ViT-B-32/random", "clip", "", "ViT-B-32/random", False),
        ("/a:b/model.safetensors", "clip", "/a", "b/model.safetensors", False),
        ("model.pth", "clip", "", "model.pth", False),
    ],
)
def test_a_name_has_one_family(name: str, family: str, scheme: str, rest: str, elsewhere: bool) -> None:
    parsed = parse_model_name(f"{name}#whole")
    assert (parsed.base, parsed.scheme, parsed.rest, find_family(parsed)) == (name, scheme, rest, family)
    assert is_elsewhere(name) == is_elsewhere(f"{name}#merge=half#whole") == elsewhere


def test_a_short_name_is_that_of_a_recommended_model() -> None:
    for short, recommended in RECOMMENDED.items():
        assert resolve_name(parse_model_name(f"{short}#whole")) == ModelName(
            recommended.model, recommended.merge, whole=True
        )
        assert is_elsewhere(short)
