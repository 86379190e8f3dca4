"""What open_clip knows of its models, and its tokenizer of CLIP, without the seconds that importing all of it takes.

The package as a whole imports transformers and torchvision. Its configurations are files, and its table of pretrained
weights and its tokenizer are modules that need nothing else of it.
"""

import importlib
import json
import logging
import re
import sys
from types import ModuleType
from typing import Any, Literal

from vidret.model_files import find_package

logger = logging.getLogger(__name__)

PACKAGE, ALONE = "open_clip", "_open_clip_alone"
CONFIG_KEYS = {"embed_dim", "vision_cfg", "text_cfg"}


def import_part(name: Literal["pretrained", "tokenizer"]) -> Any:
    """Return a module of open_clip.

    It is imported alone, in a package that stands in for the real one, unless open_clip is imported already, or is of a
    version whose module needs the rest.
    """
    folder = find_package(PACKAGE)
    if PACKAGE not in sys.modules and folder is not None:
        sys.modules.setdefault(ALONE, ModuleType(ALONE)).__path__ = [str(folder)]
        try:
            return importlib.import_module(f"{ALONE}.{name}")
        except Exception as error:  # whatever it is, importing all of open_clip does without it, or says what is wrong
            logger.info("open_clip is imported as a whole: %s", error)
    importlib.import_module(PACKAGE)
    return importlib.import_module(f"{PACKAGE}.{name}")


def read_configs() -> dict[str, dict[str, Any]]:
    """Return the configurations of open_clip's architectures by name, with those that a program has added to it."""
    if PACKAGE not in sys.modules and (configs := _read_config_files()):
        return dict(sorted(configs.items(), key=lambda item: _split_numbers(item[0])))
    package: Any = importlib.import_module(PACKAGE)
    return {name: package.get_model_config(name) for name in package.list_models()}


def _read_config_files() -> dict[str, dict[str, Any]]:
    folder = find_package(PACKAGE)
    paths = () if folder is None else (folder / "model_configs").glob("*.json")
    read = {path.stem: json.loads(path.read_text("utf-8")) for path in paths}
    return {name: config for name, config in read.items() if config.keys() >= CONFIG_KEYS}


def _split_numbers(name: str) -> list[int | str]:
    """Return the key that sorts names as open_clip does, ViT-B-16 before ViT-B-100."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]
