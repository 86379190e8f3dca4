"""open_clip's configurations, table of pretrained weights and CLIP tokenizer, without importing the whole package.

The whole package takes seconds to import, with transformers and torchvision. Its configurations are files, and its
table of pretrained weights and its tokenizer are modules that import nothing else from it.
"""

import importlib
import json
import logging
import re
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from vidret.model_files import find_package

logger = logging.getLogger(__name__)

PACKAGE, ALONE = "open_clip", "_open_clip_alone"
CONFIG_KEYS = {"embed_dim", "vision_cfg", "text_cfg"}


def import_part(name: Literal["pretrained", "tokenizer"]) -> Any:
    """Import and return a module of open_clip.

    It is imported alone, in a stand-in for the real package, unless open_clip is imported already, or the module needs
    the rest in this version.
    """
    module_name = f"{ALONE}.{name}"
    if PACKAGE not in sys.modules:
        if (known := sys.modules.get(module_name)) is not None:  # called for each batch of texts
            return known
        if (folder := find_package(PACKAGE)) is not None:
            sys.modules.setdefault(ALONE, ModuleType(ALONE)).__path__ = [str(folder)]
            try:
                return importlib.import_module(module_name)
            except Exception as error:  # importing all of open_clip works, or reports the error
                logger.info("open_clip is imported as a whole: %s", error)
    return importlib.import_module(f"{PACKAGE}.{name}")


def read_configs() -> dict[str, dict[str, Any]]:
    """Return the configurations of open_clip's architectures by name, including those that a program has added."""
    folder = None if PACKAGE in sys.modules else find_package(PACKAGE)
    if folder is not None and (configs := _read_config_files(folder)):
        return configs
    package: Any = importlib.import_module(PACKAGE)
    return {name: package.get_model_config(name) for name in package.list_models()}


@lru_cache(maxsize=1)
def _read_config_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the configurations in the folder of open_clip; cached, since loading needs these 150 files twice."""
    paths = sorted((folder / "model_configs").glob("*.json"), key=lambda path: _split_numbers(path.stem))
    read = {path.stem: json.loads(path.read_text("utf-8")) for path in paths}
    return {name: config for name, config in read.items() if config.keys() >= CONFIG_KEYS}


def _split_numbers(name: str) -> list[int | str]:
    """Return the key that sorts names as open_clip does: ViT-B-16 before ViT-B-100."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]
