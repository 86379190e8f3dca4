"""The user's consent to the models and servers that an index names, and that are not part of it.

An index may come from anybody, so its models and servers are used only once the user has named them too, or built the
index with them. Consent is stored outside of the index, by the index's path.
"""

import hashlib
import logging
import os
from pathlib import Path

from vidret.disk import find_user_folder
from vidret.errors import StoreError
from vidret.text import sanitize

logger = logging.getLogger(__name__)

VARIABLE = "VIDRET_ALLOW"  # names that any index may use, separated by spaces


def allow(index: str | os.PathLike[str], name: str) -> None:
    """Record that an index may use the model or server of a name; a failure is logged."""
    path = _locate(index, name)
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{os.path.realpath(index)}\n{name}\n", "utf-8", "surrogateescape")
    except OSError as error:
        logger.info("%s: cannot be written, so that %s must be named again (%s)", path, name, error.strerror)


def is_allowed(index: str | os.PathLike[str], name: str) -> bool:
    """Return whether an index may use the model or server of a name."""
    return name in os.environ.get(VARIABLE, "").split() or _locate(index, name).exists()


def check_allowed(index: str | os.PathLike[str], name: str, *, option: str) -> None:
    """Check that an index may use the model or server of a name; ``option`` is the option that takes the name.

    Raises:
        StoreError: The user has not allowed it.
    """
    if not is_allowed(index, name):
        name = sanitize(name)
        allowing = f"name it too, once, by {option} {name} or in {VARIABLE}"
        raise StoreError(f"{index}: names {name}, which is not part of it; if you trust that, {allowing}")


def _locate(index: str | os.PathLike[str], name: str) -> Path:
    """Return the path of the file that records the consent, and exists only with it."""
    state = find_user_folder("XDG_STATE_HOME", "~/.local/state")
    key = os.fsencode(os.path.realpath(index)) + b"\n" + os.fsencode(name)
    return state / "vidret" / "allowed" / hashlib.blake2b(key, digest_size=16).hexdigest()
