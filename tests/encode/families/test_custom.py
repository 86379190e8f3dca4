"""Encoders from elsewhere: the example that is documented, classes by name, entry points, and objects."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import ColourEncoder, write_film
from vidret.encode.families.registry import describe_class, load_custom, load_encoder
from vidret.encode.names import ModelName
from vidret.engine import Engine
from vidret.errors import EncoderError

EXAMPLES = Path(__file__).parents[3] / "examples"
CLASS = "colour_encoder:ColourNames"


class Plain(ColourEncoder):
    """An encoder that may be told its device and whether it sees whole videos."""

    def __init__(self, device: str = "cpu", whole: bool = False) -> None:
        super().__init__()
        self.device, self.whole = device, whole


class NoMethods:
    pass


class Broken(ColourEncoder):
    def __init__(self) -> None:
        raise OSError("no weights")


class NoFingerprint(ColourEncoder):
    def __init__(self) -> None:
        pass


class FixedName(ColourEncoder):
    __slots__ = ()

    def __setattr__(self, key: str, value: Any) -> None:
        if key == "name":
            raise AttributeError("read-only")
        super().__setattr__(key, value)


@pytest.fixture
def _examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "colour_encoder", raising=False)


@pytest.mark.usefixtures("_examples")
@pytest.mark.wrong_shapes
def test_the_example_makes_an_index_that_opens_again(tmp_path: Path) -> None:
    for colour in ("red", "blue", "green"):
        write_film(tmp_path / f"films/{colour}.mp4", (colour, 3))
    both = write_film(tmp_path / "films/long.mp4", ("red", 4), ("blue", 4))
    with Engine.open(tmp_path / "index", encoder=CLASS) as engine:
        assert not engine.index([tmp_path / "films"], workers=1).failed
    with Engine.open(tmp_path / "index") as engine:
        assert engine.encoder.name == CLASS
        assert [Path(engine.search(colour, 1)[0].path).stem for colour in ("green", "blue")] == ["green", "blue"]
        moment = engine.locate("blue", 1, video=both)[0]
        assert [moment.start, moment.end] == pytest.approx([4, 8], abs=0.3)


def test_the_example_is_short() -> None:
    lines = (EXAMPLES / "colour_encoder.py").read_text("utf-8").partition("class ColourNames:")[2].splitlines()
    assert len([line for line in lines if line.strip() and not line.strip().startswith('"""')]) <= 20


def test_a_class_gets_the_settings_that_it_has() -> None:
    name = f"{__name__}:Plain"
    encoder: Any = load_custom(ModelName(name, whole=True), device="cuda:1", precision="bf16")
    assert (encoder.device, encoder.whole, encoder.name) == ("cuda:1", True, f"{name}#whole")
    assert load_encoder(name, device="cpu").name == name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_module:Class", "cannot be imported: .*; it must be installed or on PYTHONPATH"),
        (f"{__name__}:Gone", "must have a class Gone"),
        ("os:abort", "os:abort must be a class with the methods encode_frames and encode_text"),
        (f"{__name__}:NoMethods", "must be a class with the methods"),
        (f"{__name__}:Broken", "cannot be made: no weights"),
        (f"{__name__}:NoFingerprint", "got none named fingerprint"),
        (f"{__name__}:FixedName", "must have a name that can be set"),
        (f"{__name__}:NoFingerprint#whole", "must accept whole for #whole, got"),
    ],
)
def test_what_is_no_encoder_is_refused(name: str, reason: str) -> None:
    with pytest.raises(EncoderError, match=reason) as caught:
        load_encoder(name, device="cpu")
    assert "\n" not in str(caught.value)


def test_an_entry_point_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mine-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        f"[vidret.encoders]\nmy-colours = {__name__}:Plain\n[console_scripts]\nother-colours = {__name__}:Plain\n"
    )
    with pytest.raises(EncoderError, match="my-colours"):
        load_encoder("my-colours", device="cpu")
    monkeypatch.syspath_prepend(tmp_path)
    encoder = load_encoder("my-colours", device="cpu")
    assert isinstance(encoder, Plain)
    assert encoder.name == "my-colours"
    with pytest.raises(EncoderError, match=r"endpoint:URL.model=NAME or the path of a .safetensors"):
        load_encoder("other-colours", device="cpu")


def test_an_index_made_with_an_object_says_how_to_reopen_it(tmp_path: Path) -> None:
    film = write_film(tmp_path / "red.mp4", ("red", 3))
    with Engine(tmp_path / "index", Plain()) as engine:
        engine.index([film], workers=1)
    expected = f"encoder colours, .*pass the object as encoder=, or its class .*: --model {__name__}:Plain"
    with pytest.raises(EncoderError, match=expected):
        Engine.open(tmp_path / "index")

    class Local(ColourEncoder):
        """A class that cannot be imported by name."""

    assert describe_class(Local()) == ""
    with Engine(tmp_path / "other", Local()) as engine:
        engine.index([film], workers=1)
    with pytest.raises(EncoderError, match=r"pass the object as encoder=$"):
        Engine.open(tmp_path / "other")
    with Engine.open(tmp_path / "other", encoder=Local()) as engine:
        assert engine.search("red")
    with pytest.raises(EncoderError, match="model must be starter"):
        Engine.open(tmp_path / "none", encoder="colours")
