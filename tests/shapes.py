"""The check of shapes in signatures: in tests, every annotated array of vidret is compared with the real one."""

from collections.abc import Callable
from inspect import isclass
from typing import TypeVar, get_args

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

Function = TypeVar("Function", bound=Callable[..., object])

_CHECK = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Function) -> Function:
    """Return the function with checks of those annotations that contain a shape; mypy checks the others."""
    annotations = {name: hint for name, hint in function.__annotations__.items() if has_shape(hint)}
    if not annotations:
        return function
    function.__annotations__ = annotations
    checked: Function = _CHECK(function)
    return checked


def has_shape(hint: object) -> bool:
    """Return whether a type is a jaxtyping array or contains one."""
    return (isclass(hint) and issubclass(hint, AbstractArray)) or any(map(has_shape, get_args(hint)))
