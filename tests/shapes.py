"""The check of shapes in signatures: in tests, every annotated array of vidret is compared with the real one.

A check takes longer than most functions, so that of the calls of a function in one test the first ones are checked, and
then one in ``EVERY``; and what depends on the types and shapes of arrays alone is checked once for each.
"""

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from functools import wraps
from inspect import isclass, isgeneratorfunction
from types import FunctionType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError

PACKAGES = (
    "align channels cli client data devices encode engine evaluate ground index layers metrics present search serve"
    " store text train types video"
)
EVERY = 16
Function = TypeVar("Function", bound=Callable[..., object])

_CHECK = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeCheckError))
_CALL = jaxtyping.jaxtyped("context")  # of one call, whose axes are compared with one another alone


@dataclass
class Test:
    """The running test: its number, and whether it has its shapes checked."""

    number: int = 0
    is_checked: bool = True

    def begin(self, *, is_checked: bool) -> None:
        """Begin the next one."""
        self.number, self.is_checked = self.number + 1, is_checked


test = Test()


def install() -> None:
    """Check the shapes of all of vidret that is imported from now on, where a signature contains one."""
    decorate = jaxtyping.jaxtyped

    def decorate_shaped(*, typechecker: Any) -> Callable[[Any], Any]:
        def wrap(function: Any) -> Any:
            return check_once(function) or decorate(function, typechecker=typechecker)

        return lambda target: sample(target, wrap) if is_shaped(target) else target

    # The import hook wraps every function, which would slow all of them down.
    jaxtyping.jaxtyped = decorate_shaped  # type: ignore[assignment]
    names = [f"vidret.{name}" for name in PACKAGES.split(" ")]
    jaxtyping.install_import_hook(names, f"{check.__module__}.{check.__name__}")


def sample(target: Any, wrap: Callable[[Any], Any]) -> Any:
    """Return a function, method, property or dataclass of which some calls are checked as ``wrap`` checks them."""
    if isclass(target):
        target.__init__ = alternate(target.__init__, wrap)  # type: ignore[method-assign]
        return target
    if isinstance(target, property):
        return property(
            *(accessor and alternate(accessor, wrap) for accessor in (target.fget, target.fset, target.fdel))
        )
    if isinstance(target, (classmethod, staticmethod)):
        return type(target)(alternate(target.__func__, wrap))
    return alternate(target, wrap)


def check_once(function: Any) -> Any:
    """Return a function that checks its arguments and its result in one pass; None if only jaxtyping's wrapper can.

    That one takes several times as long: it binds the arguments, from which axes such as ``{k}`` are computed, and
    checks them once more beside the result. It also leaves alone what a generator yields.
    """
    hints = {name: resolve(hint, function) for name, hint in function.__annotations__.items()}
    shaped = {name: hint for name, hint in hints.items() if has_shape(hint)}
    if not shaped:
        return function
    if isgeneratorfunction(function) or any("{" in str(hint) for hint in shaped.values()):
        return None
    names = function.__code__.co_varnames[: function.__code__.co_argcount + function.__code__.co_kwonlyargcount]
    if all(is_array(hint) for hint in shaped.values()) and {*shaped} <= {*names, "return"}:
        return check_new(function, names, shaped)
    same: Any = FunctionType(  # so that the annotations of the function itself stay complete
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    same.__kwdefaults__, same.__qualname__ = function.__kwdefaults__, function.__qualname__
    same.__annotations__ = shaped
    checked = _CHECK(same)

    @wraps(function)
    def called(*arguments: Any, **named: Any) -> Any:
        with _CALL:
            return checked(*arguments, **named)

    return called


def check_new(function: Any, names: tuple[str, ...], hints: dict[str, Any]) -> Any:
    """Return a function of arrays that checks a call unless one of the same types and shapes was right."""
    places = [(place, name) for place, name in enumerate(names) if name in hints]
    right = set[object]()

    @wraps(function)
    def called(*arguments: Any, **named: Any) -> Any:
        named_values = [
            (name, arguments[place] if place < len(arguments) else named[name])
            for place, name in places
            if place < len(arguments) or name in named
        ]
        kinds = tuple((name, describe(value)) for name, value in named_values)
        if kinds not in right:
            compare(function, hints, named_values)
            right.add(kinds)
        result = function(*arguments, **named)
        if "return" in hints and (kinds, describe(result)) not in right:
            compare(function, hints, [*named_values, ("return", result)])
            right.add((kinds, describe(result)))
        return result

    return called


def describe(value: Any) -> tuple[object, ...]:
    """Return all that a check of an array depends on."""
    return type(value), getattr(value, "shape", None), getattr(value, "dtype", None)


def compare(function: Any, hints: dict[str, Any], values: list[tuple[str, Any]]) -> None:
    """Raise TypeCheckError unless the arrays of one call are as annotated, axes of one name being equal."""
    with _CALL:
        for name, value in values:
            if not isinstance(value, hints[name]):
                described = ", ".join(f"{other} {describe(other_value)}" for other, other_value in values)
                raise TypeCheckError(f"{function.__qualname__}: {name} must be {hints[name]}, got {described}")


def resolve(hint: object, function: Any) -> object:
    """Return an annotation of a function with the types that its strings name; Any where one is not imported."""

    def holder() -> None: ...

    holder.__annotations__ = {"hint": hint}
    try:
        return get_type_hints(holder, function.__globals__, include_extras=True)["hint"]
    except Exception:  # as jaxtyping does: NameError, or what an expression raises
        return Any


def alternate(plain: Any, wrap: Callable[[Any], Any]) -> Any:
    """Return a function that is checked for some calls of a test.

    It is wrapped at the first of them: compiling checks takes a millisecond, and most runs call few of all functions.
    """
    test_number = num_calls = 0
    checked: Any = None

    @wraps(plain)
    def sampled(*arguments: Any, **named: Any) -> Any:
        nonlocal test_number, num_calls, checked
        if not test.is_checked:
            return plain(*arguments, **named)
        if test_number != test.number:
            test_number, num_calls = test.number, 0
        num_calls += 1
        checked = checked or wrap(plain)
        return (plain if num_calls > EVERY and num_calls % EVERY else checked)(*arguments, **named)

    return sampled


def is_shaped(target: Any) -> bool:
    """Return whether the signature of a function, method, property or dataclass contains a shape, or may do so."""
    if isclass(target):
        return is_dataclass(target) and is_shaped(target.__init__)
    if isinstance(target, property):
        return any(map(is_shaped, filter(None, (target.fget, target.fset))))
    hints = getattr(target, "__func__", target).__annotations__.values()  # of a class method, those of its function
    return any(isinstance(hint, str) or has_shape(hint) for hint in hints)


def check(function: Function) -> Function:
    """Return the function with checks of those annotations that contain a shape; mypy checks the others."""
    annotations = {name: hint for name, hint in function.__annotations__.items() if has_shape(hint)}
    if not annotations:
        return function
    function.__annotations__ = annotations
    return _CHECK(function)


def is_array(hint: object) -> bool:
    """Return whether a type is a jaxtyping array, or a choice between some and None."""
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return all(choice is type(None) or is_array(choice) for choice in get_args(hint))
    return isclass(hint) and issubclass(hint, AbstractArray)


def has_shape(hint: object) -> bool:
    """Return whether a type is a jaxtyping array or contains one."""
    return (isclass(hint) and issubclass(hint, AbstractArray)) or any(map(has_shape, get_args(hint)))
