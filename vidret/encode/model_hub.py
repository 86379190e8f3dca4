"""Whether a model of the hub is on this machine, and whether the hub can be reached if it is not."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path

import huggingface_hub

from vidret.encode.names import ModelName
from vidret.errors import EncoderError

HUB_TIMEOUT_S = 1.5  # the libraries' own retries last most of a minute


def find_cached(repository: str, files: Iterable[str]) -> bool:
    """Return whether one of some files of a repository is in the cache of the hub."""
    return any(isinstance(huggingface_hub.try_to_load_from_cache(repository, file), str) for file in files)


def check_reachable(name: str, repository: str, files: Iterable[str]) -> None:
    """Raise EncoderError within two seconds if none of the files is cached and the hub cannot be reached."""
    if find_cached(repository, files):
        return
    reason = "HF_HUB_OFFLINE is set" if huggingface_hub.constants.HF_HUB_OFFLINE else find_obstacle()
    if reason:
        raise EncoderError(
            f"{name}: its files are not on this machine and {reason}; download them elsewhere and pass the path of "
            f"the file, or use --model starter"
        )


def find_source(name: ModelName, configurations: Sequence[str], weights: Sequence[str] = ()) -> tuple[str, bool]:
    """Return the folder or repository of ``SCHEME:org/name`` or ``SCHEME:FOLDER``, and whether it is on this machine.

    One of the configurations must be there, and in the cache of the hub one of the weights too.

    Raises:
        EncoderError: The folder does not exist or has no configuration, the name is not ``org/name``, or the model is
            not on this machine and the hub cannot be reached.
    """
    rest, scheme = name.rest, name.scheme
    folder = Path(rest).expanduser()
    if folder.is_dir():
        if not any((folder / file).is_file() for file in configurations):
            raise EncoderError(f"{folder}: must hold the {' or '.join(configurations)} of a model")
        return str(folder.absolute()), True
    if rest.count("/") != 1 or rest.startswith((".", "/", "~")) or rest.endswith("/"):
        rule = f"must be {scheme}:org/name or {scheme}: with an existing folder"
        raise EncoderError(f"{name.base}: {rule}, got no folder {rest}")
    is_cached = find_cached(rest, configurations) and (not weights or find_cached(rest, weights))
    if not is_cached:
        check_reachable(name.base, rest, [])
    return rest, is_cached


def find_obstacle() -> str:
    """Return why the hub cannot be reached; empty if it can.

    A thread asks, since looking up the name of a host has no timeout.
    """
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(_ask_hub()), daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT_S)
    return answers[0] if answers else f"the model hub cannot be reached (no answer within {HUB_TIMEOUT_S} s)"


def _ask_hub() -> str:
    try:
        request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
        with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError:
        return ""  # the hub is reachable; the download reports what is wrong
    except OSError as error:
        return f"the model hub cannot be reached ({getattr(error, 'reason', error)})"
