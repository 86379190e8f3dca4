"""Encoders from elsewhere: a class by its module and name, or by an entry point of an installed package."""

import importlib
import inspect
import re
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import torch

from vidret.encode.encoder import Encoder
from vidret.encode.names import WHOLE, ModelName
from vidret.errors import EncoderError

GROUP = "vidret.encoders"  # of the entry points
CLASS_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
ATTRIBUTES = ("dim", "fingerprint", "resize", "sampling", "encode_frames", "encode_text")


def find_entry_point(name: str) -> EntryPoint | None:
    """Return the entry point of a name in the group ``vidret.encoders``; None if there is none."""
    return next(iter(entry_points(group=GROUP, name=name)), None)


def is_class_name(name: str) -> bool:
    """Return whether a name has the form ``package.module:Class``.

    >>> is_class_name("package.module:Class"), is_class_name("hf-hub:org/name")
    (True, False)
    """
    return CLASS_NAME.fullmatch(name) is not None


def load_custom(name: ModelName, *, device: torch.device, precision: str) -> Encoder:
    """Load an encoder by ``package.module:Class`` or the name of an entry point.

    The class is called without arguments, or with those of ``device``, ``precision`` and ``whole`` that it has. Its
    attribute ``name`` becomes the name it was loaded by, so that its indexes open again.

    Raises:
        EncoderError: The module or class does not exist, is not a class with the methods of an encoder, cannot be
            made, or lacks an attribute.
    """
    base, made_by = name.base, _find_class(name.base)
    if not isinstance(made_by, type) or not all(hasattr(made_by, method) for method in ATTRIBUTES[-2:]):
        raise EncoderError(f"{base} must be a class with the methods encode_frames and encode_text, got {made_by!r}")
    accepted = inspect.signature(made_by).parameters
    settings = {"device": str(device), "precision": precision, "whole": name.whole}
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


def _find_class(name: str) -> Any:
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
    """Return the name that loads an encoder's class, ``package.module:Class``; empty if none can.

    A class inside another one or a function, or of the script that runs, cannot be imported by name.
    """
    made_by = type(encoder)
    name = f"{made_by.__module__}:{made_by.__qualname__}"
    return name if is_class_name(name) and made_by.__module__ != "__main__" else ""
