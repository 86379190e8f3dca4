"""Loading models of transformers: what a repository holds, whether it is complete, and without its remarks."""

import importlib
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from vidret.errors import EncoderError

logger = logging.getLogger(__name__)


def read_model_type(source: str, options: dict[str, Any]) -> str:
    """Return the type that the configuration of a model of transformers states; empty if it cannot be read."""
    transformers: Any = importlib.import_module("transformers")
    try:
        return str(transformers.AutoConfig.from_pretrained(source, **options).model_type)
    except Exception:  # the library documents none; loading the model says what is wrong
        return ""


def check_complete(name: str, info: dict[str, Any]) -> None:
    """Raise EncoderError if transformers reports that weights of a model were missing."""
    if missing := sorted(str(key) for key in info["missing_keys"]):
        raise EncoderError(f"{name}: {len(missing)} weights missing: {', '.join(missing[:5])}")


@contextmanager
def hide_progress() -> Iterator[None]:
    """Hide transformers' bars of progress: loading weights takes a second, unlike downloading them.

    What it prints, which are remarks on its own documentation, is logged: standard output is for data.
    """
    log: Any = importlib.import_module("transformers").utils.logging
    shows_progress = log.is_progress_bar_enabled()
    log.disable_progress_bar()
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            logger.debug("transformers: %s", line)
        if shows_progress:
            log.enable_progress_bar()
