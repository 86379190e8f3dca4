"""The registry of families of encoders, and loading an encoder by name.

A family is a module of this folder with a ``Loader``, and a case here. User-defined encoders are found here, too: a
class by its module and name, or by an entry point of an installed package.
"""

import importlib
import inspect
import re
import sys
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any, Literal, Protocol, get_args

from vidret.devices import choose_device
from vidret.encode.encoder import Encoder
from vidret.encode.names import (
    FILE_SUFFIXES,
    OPEN_CLIP_SCHEMES,
    PAIR,
    RANDOM,
    STARTER,
    WHOLE,
    ModelName,
    check_precision,
    parse_model_name,
    refuse_marks,
    refuse_sizes,
    resolve_name,
)
from vidret.errors import EncoderError, VidretError, read_fault

Scheme = Literal["hf", "st", "endpoint"]  # families whose model names begin with the scheme and a colon
Family = Literal["starter", "pair", Scheme, "custom", "clip"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)


class Loader(Protocol):
    """Loads the encoders of a family."""

    def __call__(self, name: ModelName, *, device: str, precision: str) -> Encoder:
        """Load an encoder. Its ``name`` must load it again from any folder; see ``load_encoder``."""


def find_family(name: ModelName) -> Family:
    """Return the family of a name: the CLIP models, unless it is another one."""
    if name.base == STARTER:
        return "starter"
    if PAIR in name.base:
        return "pair"
    for scheme in SCHEMES:
        if name.scheme == scheme:
            return scheme
    return "custom" if is_class_name(name.base) or find_entry_point(name.base) is not None else "clip"


def find_loader(family: Family) -> Loader:
    """Return the loader of a family.

    Each case imports its libraries only then: open_clip takes seconds, and much of vidret runs without a model.
    """
    match family:
        case "starter":
            from vidret.encode.families.starter import load_starter

            return load_starter
        case "pair":
            return load_pair
        case "hf":
            from vidret.encode.families.transformers import load_transformers

            return load_transformers
        case "st":
            from vidret.encode.families.sentence_transformers import load_embedding_model

            return load_embedding_model
        case "endpoint":
            from vidret.encode.families.endpoint import load_endpoint

            return load_endpoint
        case "custom":
            return load_custom
        case "clip":
            from vidret.encode.families.clip import load_clip

            return load_clip


def is_elsewhere(name: str) -> bool:
    """Return whether loading an encoder by this name may run code, download, or send data to an endpoint.

    >>> is_elsewhere("endpoint:https://host/v1?model=clip"), is_elsewhere("ViT-B-32/random"), is_elsewhere("starter")
    (True, False, False)
    """
    parsed = resolve_name(parse_model_name(name))
    family = find_family(parsed)
    if family == "pair":
        return any(map(is_elsewhere, parsed.base.split(PAIR)))
    if family != "clip" or parsed.scheme in OPEN_CLIP_SCHEMES:
        return family != "starter"
    return "/" in parsed.base and not parsed.base.endswith((*FILE_SUFFIXES, f"/{RANDOM}"))


def load_encoder(name: str = STARTER, *, device: str = "auto", precision: str = "auto") -> Encoder:
    """Load an encoder by name.

    Args:
        name: ``starter``; ``small``, ``good``, ``best`` or ``multilingual`` for a recommended model; an open_clip
            model as ``ViT-B-32/laion2b_s34b_b79k`` or ``hf-hub:org/name``; an open_clip architecture with a local file
            as ``ViT-B-32//path/weights.safetensors``; the path of a local .safetensors or .pt file, including those
            written by ``vidret convert``; or ``ViT-B-32/random`` for random weights (for tests only); or a model of
            transformers, as ``hf:org/name`` or ``hf:FOLDER``, or of sentence-transformers, as ``st:org/name`` or
            ``st:FOLDER``; or your own class, as ``package.module:Class`` or the name of an entry point in the group
            ``vidret.encoders``; or an embeddings endpoint, as ``endpoint:URL?model=NAME``; or two of these with `` + ``
            between them, whose similarities are averaged. The suffix ``#whole`` encodes every video as one segment, as
            benchmarks do. ``#merge=gentle`` or ``#merge=half``, before it, merges tokens of a CLIP ViT until 75 or 50 %
            of its multiply-adds are left: faster, and with other vectors.
        device: ``auto`` (the accelerator that PyTorch finds, else the CPU), ``cpu``, ``cuda``, ``cuda:N``, ``xpu``,
            ``xpu:N`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16`` or ``int8``. For CLIP, ``auto`` is bf16 where the hardware
            supports it, fp16 on Apple's chips, and on other CPUs with int8 instructions int8 for frames, if their
            vectors keep a cosine of 0.995 to fp32. For the starter it is fp32. int8 is for CLIP ViTs on CPUs only.

    Raises:
        DeviceError: There is no such device; raised before anything is loaded.
        EncoderError: The name or precision is unknown, the precision does not apply to the model or device, or the
            weights cannot be downloaded or do not fit.
        EndpointError: An endpoint does not answer.
        MissingExtraError: The packages of the starter, transformers or sentence-transformers, are not installed.
    """
    check_precision(precision)
    chosen = choose_device(device)
    parsed = resolve_name(parse_model_name(name))
    family = find_family(parsed)
    if family not in ("clip", "pair"):
        refuse_marks(parsed)
    if family not in ("hf", "st"):
        refuse_sizes(parsed)
    try:
        return find_loader(family)(parsed, device=chosen, precision=precision)
    except OSError as error:  # the name is too long for a path, or a folder is not readable
        raise EncoderError(f"{name}: {read_fault(error)}") from error


def load_pair(name: ModelName, *, device: str, precision: str) -> Encoder:
    """Load the two encoders of a pair's name; marks at its end apply to both.

    Raise EncoderError if the name does not have two parts, or one of them cannot be loaded.
    """
    from vidret.encode.families.pair import PairEncoder

    parts = name.base.split(PAIR)
    if len(parts) != 2:
        raise EncoderError(f"a pair must have two models, got {len(parts)}: {name.base}")
    marks = str(replace(name, base=""))
    first, second = (load_encoder(part + marks, device=device, precision=precision) for part in parts)
    return PairEncoder(first, second)


GROUP = "vidret.encoders"  # of the entry points
CLASS_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
ATTRIBUTES = ("dim", "fingerprint", "resize", "sampling", "encode_frames", "encode_text")


def find_entry_point(name: str) -> EntryPoint | None:
    """Return the entry point with this name in the group ``vidret.encoders``; None if there is none."""
    return next(iter(list_entry_points().select(name=name)), None)


def list_entry_points() -> EntryPoints:
    """Return the entry points of encoders in installed packages."""
    return _read_entry_points(tuple(sys.path))


@lru_cache(maxsize=1)
def _read_entry_points(folders: tuple[str, ...]) -> EntryPoints:
    """Return the entry points of encoders in packages in these folders.

    They are read once, since that opens a file of each package (10 ms), and each opening of an index needs them.
    """
    return entry_points(group=GROUP)


def is_class_name(name: str) -> bool:
    """Return whether a name has the form ``package.module:Class``.

    >>> is_class_name("package.module:Class"), is_class_name("hf-hub:org/name")
    (True, False)
    """
    return CLASS_NAME.fullmatch(name) is not None


def make_custom(name: str, role: str, protocol: type) -> Any:
    """Return an instance of a user's class, ``package.module:Class``, for a role such as "face model".

    Raise VidretError if the class does not exist, cannot be instantiated, or lacks a member of the protocol.
    """
    try:
        made = find_class(name)()
    except VidretError:
        raise
    except Exception as error:  # it is someone else's code
        raise VidretError(f"{role} {name}: cannot be loaded: {error}") from error
    members = [member for member in (*protocol.__annotations__, *vars(protocol)) if not member.startswith("_")]
    if missing := [member for member in members if not hasattr(made, member)]:
        raise VidretError(f"{role} {name} must have {', '.join(members)}, got none named {', '.join(missing)}")
    return made


def load_custom(name: ModelName, *, device: str, precision: str) -> Encoder:
    """Load an encoder by ``package.module:Class`` or the name of an entry point.

    The class is called without arguments, or with those of ``device``, ``precision`` and ``whole`` that it accepts. Its
    attribute ``name`` is set to the given name, so that its indexes open again. Raise EncoderError if the module or
    class does not exist, is not a class with the methods of an encoder, cannot be created, or lacks an attribute.
    """
    base, made_by = name.base, find_class(name.base)
    if not isinstance(made_by, type) or not all(hasattr(made_by, method) for method in ATTRIBUTES[-2:]):
        raise EncoderError(f"{base} must be a class with the methods encode_frames and encode_text, got {made_by!r}")
    accepted = inspect.signature(made_by).parameters
    settings = {"device": device, "precision": precision, "whole": name.whole}
    if name.whole and "whole" not in accepted:
        raise EncoderError(f"{base} must accept whole for {WHOLE}, got only {', '.join(accepted) or 'no parameters'}")
    try:
        encoder: Any = made_by(**{key: value for key, value in settings.items() if key in accepted})
    except Exception as error:  # it is someone else's code
        raise EncoderError(f"{base} cannot be made: {error}") from error
    missing = [attribute for attribute in ATTRIBUTES if not hasattr(encoder, attribute)]
    if missing:
        raise EncoderError(f"{base} must have the attributes of an encoder, got none named {', '.join(missing)}")
    try:
        encoder.name = str(name)
        if (name.frames, name.fps, name.until_s) != (None, None, None):
            encoder.sampling = name.sample(encoder.sampling)
    except AttributeError as error:
        raise EncoderError(f"{base} must have a name that can be set to {name}: {error}") from error
    named: Encoder = encoder
    return named


def find_class(name: str) -> Any:
    """Return the class of ``package.module:Class`` or of the name of an entry point.

    Raise EncoderError if the module or the class does not exist.
    """
    entry = None if is_class_name(name) else find_entry_point(name)
    module_name, _, class_name = (entry.value if entry else name).partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise EncoderError(f"{name} cannot be imported: {error}; it must be installed or on PYTHONPATH") from error
    if not hasattr(module, class_name):
        raise EncoderError(f"{name}: {module_name} must have a class {class_name}")
    return getattr(module, class_name)


def describe_class(encoder: Encoder) -> str:
    """Return the name that loads an encoder's class, ``package.module:Class``; empty if it cannot be loaded by name.

    A class inside another one or a function, or in the running script, cannot be imported by name.
    """
    made_by = type(encoder)
    name = f"{made_by.__module__}:{made_by.__qualname__}"
    return name if is_class_name(name) and made_by.__module__ != "__main__" else ""
