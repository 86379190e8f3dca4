"""Methods of training for retrieval: one module each, named as recipes name it.

To add one, write ``methods/NAME.py`` with a dataclass that has the verbs of ``Method``, bound to ``METHOD``, and a
recipe that says ``method: NAME``. The dataclass's fields are the method's settings: ``options`` in a recipe.

``RetrievalModel.encode_all`` gives losses the texts and videos of all processes, ``same_videos`` which of them are no
negatives of each other.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from vidret.align.batches import TextBatch, VideoBatch
from vidret.data.dataset import RetrievalBatch
from vidret.encode.model import Card, ClipModel
from vidret.errors import VidretError
from vidret.train.model import RetrievalModel
from vidret.train.optim import Recipe

logger = logging.getLogger(__name__)


class Method(Protocol):
    """One method of training for retrieval.

    Attributes:
        recipe: How each weight is trained, as published.
    """

    recipe: ClassVar[Recipe]

    def build(self, card: Card, load: Callable[[Card], ClipModel]) -> RetrievalModel:
        """Load the towers of a card, and add what is trained beside them, initialised as the paper says."""
        ...

    def losses(self, model: RetrievalModel, batch: RetrievalBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the weighted terms of the loss of all processes' batches; ``generator`` decides what is drawn."""
        ...

    def score(self, model: RetrievalModel, texts: TextBatch, videos: VideoBatch) -> Float[Tensor, "text video"]:
        """Return the scores of all texts against all videos, which a search with the exported model orders by."""
        ...


def list_methods() -> list[str]:
    """Return the names of all methods."""
    return sorted(module.name for module in iter_modules(__path__))


def load_method(name: str, *, shared: Mapping[str, Any], options: Mapping[str, Any]) -> Method:
    """Return a method by name.

    Args:
        name: One of ``list_methods()``.
        shared: Settings that several methods may have; those that are None, or that this one has not, are left out.
        options: Settings of this method alone.

    Raises:
        VidretError: There is no such method, or it has no such option.
    """
    if name not in list_methods():
        raise VidretError(f"method must be one of {', '.join(list_methods())}, got {name}")
    kind = import_module(f"{__name__}.{name}").METHOD
    known = {field.name for field in fields(kind)}
    if unknown := options.keys() - known:
        raise VidretError(f"options of {name} must be of {', '.join(sorted(known))}, got {', '.join(sorted(unknown))}")
    given = {setting: value for setting, value in shared.items() if value is not None}
    for setting in given.keys() - known:
        logger.warning("%s has no setting %s: left out", name, setting)
    method: Method = kind(**{setting: given[setting] for setting in given.keys() & known}, **options)
    return method
