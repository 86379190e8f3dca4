"""The methods of training for retrieval, one per module. A configuration selects one by the module's name.

To add a method, write ``methods/NAME.py`` with a dataclass that implements ``Method`` and is bound to ``METHOD``, and a
YAML file with ``method: NAME``. The fields of the dataclass are the settings of the method: ``options`` in the file.

In losses, ``RetrievalModel.gather`` returns the texts and videos of all processes, and ``same_videos`` the pairs that
are not negatives of each other.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from importlib import import_module
from pkgutil import iter_modules
from types import NoneType
from typing import Any, Protocol, get_args

from vidret.align.batches import TextBatch, VideoBatch
from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip.model import Card, ClipModel
from vidret.errors import VidretError
from vidret.train.losses import Terms
from vidret.train.model import RetrievalModel
from vidret.train.optim import Recipe

Load = Callable[[Card], ClipModel]  # loads the towers of a card


class Method(Protocol):
    """A method of training for retrieval."""

    @property
    def recipe(self) -> Recipe:
        """The published recipe: how each weight is trained."""
        ...

    def build(self, card: Card, load: Load) -> RetrievalModel:
        """Load the towers of a card, and add the modules to train with them, initialised as published."""
        ...

    def losses(self, model: RetrievalModel, batch: RetrievalBatch, texts: TextBatch, videos: VideoBatch) -> Terms:
        """Return the weighted terms of the loss over the batches of all processes, by name.

        ``texts`` and ``videos`` are those of this process, encoded.
        """
        ...


def list_methods() -> list[str]:
    """Return the names of all methods."""
    return sorted(module.name for module in iter_modules(__path__))


def load_method(name: str, options: Mapping[str, Any]) -> Method:
    """Return a method by name, with settings.

    Args:
        name: One of ``list_methods()``.
        options: Settings of the method; others keep their defaults.

    Raises:
        VidretError: The method does not exist or lacks an option, or a value is invalid.
    """
    if name not in list_methods():
        raise VidretError(f"method must be one of {', '.join(list_methods())}, got {name}")
    kind = import_module(f"{__name__}.{name}").METHOD
    known = {field.name: field for field in fields(kind)}
    if unknown := options.keys() - known:
        raise VidretError(
            f"options of {name} must be of {', '.join(sorted(known)) or 'none'}, got {', '.join(sorted(unknown))}"
        )
    for option, value in options.items():
        _check_option(known[option], value)
    method: Method = kind(**options)
    return method


def _check_option(option: Field[Any], value: Any) -> None:
    """Refuse a value of another type, a negative or infinite number, and a count of 0 unless that is the default."""
    kinds, least, rule = get_args(option.type) or (option.type,), int(option.default != 0), ""
    if bool in kinds and not isinstance(value, bool):
        rule = "true or false"
    elif float in kinds and not (type(value) in (int, float) and 0 <= value < math.inf):
        rule = "a finite number of at least 0"
    elif int in kinds and not (type(value) is int and value >= least):
        rule = f"a whole number of at least {least}"
    if rule and not (value is None and NoneType in kinds):
        raise VidretError(f"{option.name} must be {rule}, got {value}")
