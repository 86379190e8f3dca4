"""The architecture of vidret, as a table that holds: who may import whom, and where each third party may be named."""

import ast
import re
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Bottom up. A room (a folder or a module of vidret) imports from rungs below its own only; rooms that share a rung are
# strangers. No rooms are vidret/__init__.py, the face, which names what is public, and vidret/__main__.py, which runs
# the command line.
RUNGS = (
    {"types", "errors", "text", "layers"},
    {"devices", "disk"},
    {"model_files", "endpoints"},
    {"video", "encode", "store", "align", "ground"},
    {"channels"},
    {"data", "index", "search", "copies", "language"},
    {"engine", "metrics", "present", "client"},
    {"train", "evaluate", "corpus", "serve", "reindex"},
    {"cli"},
)
NO_ROOMS = ("__init__", "__main__")
# These import less than their rung allows.
ONLY = {"client": {"types", "errors", "text", "store", "language"}}
# A third party lives where its name says; the day it is replaced, these files change and no others.
FENCES = {
    "decord": ("vidret/video/decoders/decord.py",),
    "torchcodec": ("vidret/video/decoders/torchcodec.py",),
    "av": (
        "vidret/video/audio.py",
        "vidret/channels/subtitles.py",
        "vidret/video/container.py",
        "vidret/video/probe.py",
        "vidret/video/rendering.py",
        "vidret/video/decoders/pyav.py",
    ),
    "faiss": ("vidret/store/vectors/flat.py",),
    "sqlite3": ("vidret/store/catalog/database.py", "vidret/store/texts/stems.py"),
    "faster_whisper": ("vidret/channels/speech.py", "vidret/channels/sounds/encoder.py"),
    "ctranslate2": ("vidret/channels/sounds/encoder.py",),
    "openvino": ("vidret/channels/texts/ocr.py",),
    "cv2": ("vidret/channels/texts/images.py",),
    "charset_normalizer": ("vidret/channels/texts/subtitle_files.py",),
    "opentimelineio": ("vidret/present/editors/otio.py",),
    "watchfiles": ("vidret/cli/commands/index.py",),
    "rapidfuzz": ("vidret/store/texts/index.py", "vidret/channels/screen.py"),
    "open_clip": ("vidret/encode/*",),
    "timm": ("vidret/encode/*",),
    "transformers": ("vidret/encode/*",),
    "sentence_transformers": ("vidret/encode/*",),
    "fastapi": ("vidret/serve/*",),
    "starlette": ("vidret/serve/*",),
    "pydantic": ("vidret/serve/*",),
    "prometheus_client": ("vidret/serve/metrics.py",),
    "uvicorn": ("vidret/serve/connections.py",),
    "mcp": ("vidret/serve/mcp/protocol.py",),
    "mcp_types": ("vidret/serve/mcp/protocol.py",),
    "pymilvus": ("vidret/store/vectors/milvus_collection.py",),
    "milvus_lite": ("vidret/store/vectors/milvus_collection.py",),
    "grpc": ("vidret/store/vectors/milvus_collection.py",),
    "fsspec": ("vidret/video/urls.py",),
    "ray": ("vidret/index/ray/*",),
}
# What must not be imported where: decoding processes start fast and stay small, an index opens without a model.
CHANNELS = (*(f"channels/{name}.py" for name in ("base", "speech", "screen", "subtitles")), "channels/texts/*")
NO_TORCH = ("video/*", *CHANNELS, "store/*", "types/*", "errors.py", "client/*", "__init__.py")
BANS = {"torch": tuple(f"vidret/{pattern}" for pattern in NO_TORCH)}
# torchcodec gives tensors; its module loads torch on first use, and no other decoder's process does.
EXEMPT = {("torch", "vidret/video/decoders/torchcodec.py")}


@cache
def read_imports(source: str, path: str) -> list[tuple[int, str]]:
    """Return the line and the full name of every import in a file, those inside functions included."""
    package = path.removesuffix(".py").split("/")[:-1]
    imports = []
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Import):
            imports += [(node.lineno, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*start, *([node.module] if node.module else [])])
            imports += [(node.lineno, f"{origin}.{name.name}") for name in node.names]
    return imports


def rung(room: str) -> int | None:
    return next((rung_index for rung_index, rooms in enumerate(RUNGS) if room in rooms), None)


def broken_rules(source: str, path: str) -> list[str]:
    """Hold one file against the table: a sentence with file, line and rule for each import that breaks it."""
    room = path.removesuffix(".py").split("/")[1]
    broken = []
    if room not in NO_ROOMS and rung(room) is None:
        return [f"{path}:1: {room} has no rung: give it one in this table"]
    for line, name in read_imports(source, path):
        place, (top, *rest) = f"{path}:{line}: imports {name}", name.split(".")
        if top == "vidret" and room not in NO_ROOMS:
            other = rest[0] if rest else "__init__"
            if other == room:
                continue
            below = {lower for rooms in RUNGS[: rung(room)] for lower in rooms}
            allowed = ONLY.get(room, below)
            if other not in allowed:
                broken.append(f"{place}, but {room} may import {', '.join(sorted(allowed)) or 'no other room'} only")
        if top in FENCES and not any(fnmatch(path, pattern) for pattern in FENCES[top]):
            broken.append(f"{place}, but {top} may be named in {', '.join(FENCES[top])} only")
        if (top, path) not in EXEMPT and any(fnmatch(path, pattern) for pattern in BANS.get(top, ())):
            broken.append(f"{place}, but {top} is banned from {', '.join(BANS[top])}")
    return broken


def test_every_import_keeps_to_the_table() -> None:
    files = sorted((ROOT / "vidret").rglob("*.py"))
    assert len(files) > 20
    broken = [
        rule for file in files for rule in broken_rules(file.read_text("utf-8"), file.relative_to(ROOT).as_posix())
    ]
    assert not broken, "\n" + "\n".join(broken)


def test_rooms_bans_and_strangers_are_told_apart() -> None:
    for source, room, rule in (
        ("from torch import nn", "video/made_up", "torch is banned"),
        ("import torch.nn", "types/made_up", "torch is banned"),
        ("from vidret.video import probe", "client/made_up", "errors, language, store, text, types"),
        ("", "utils", "has no rung"),
        ("from vidret import errors", "types/made_up", "may import no other room only"),
        ("import vidret.encode", "layers", "layers may import no other room only"),
        ("def late():\n    from vidret import cli", "engine", ":2: imports vidret.cli, but engine may import"),
        ("from ..ground import curve", "align/made_up", ":1: imports vidret.ground.curve"),
        ("import faiss.contrib", "align/made_up", "faiss may be named in vidret/store/vectors/flat.py only"),
    ):
        assert rule in broken_rules(source, f"vidret/{room}.py")[0]
    for source, room in (
        ("import torch", "encode/made_up"),
        ("from vidret.cli import app", "__init__"),
        ("from . import baseline", "align/made_up"),
        ("import torch\nfrom vidret.layers import Block", "ground/made_up"),
        ("from vidret.engine import Engine", "train/made_up"),
    ):
        assert broken_rules(source, f"vidret/{room}.py") == []


def test_layers_need_torch_and_shapes_alone() -> None:
    names = read_imports((ROOT / "vidret/layers.py").read_text("utf-8"), "vidret/layers.py")
    others = {name.split(".")[0] for _, name in names} - sys.stdlib_module_names
    assert others <= {"torch", "einops", "jaxtyping"}


def test_an_engine_with_the_starter_needs_neither_torch_nor_a_decoder_and_decoding_no_torch() -> None:
    code = "import sys, vidret.engine, vidret.encode.families.starter\n"
    code += "loaded = {'torch', 'open_clip', 'transformers', 'av', 'PIL', 'faiss'} & {*sys.modules}\n"
    code += "import vidret.video.workers.worker, vidret.store.store\n"
    code += "sys.exit(str(loaded | {'torch'} & {*sys.modules} or ''))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert ran.stderr.strip() == ""


def read_module_graph() -> dict[str, set[str]]:
    """Return which modules of vidret import which, imports inside functions and for type checking included."""
    files = {path.relative_to(ROOT).with_suffix(""): path for path in (ROOT / "vidret").rglob("*.py")}
    modules = {".".join(name.parts).removesuffix(".__init__"): path for name, path in files.items()}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        graph[module] = set()
        for _, name in read_imports(path.read_text("utf-8"), path.relative_to(ROOT).as_posix()):
            while name and name not in modules:
                name = name.rpartition(".")[0]
            graph[module] |= {name} - {"", module, "vidret"}
    return graph


def find_reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return the modules that a module imports, directly or through others."""
    reached: set[str] = set()
    waiting = set(graph[start])
    while waiting:
        module = waiting.pop()
        reached.add(module)
        waiting |= graph[module] - reached
    return reached


def test_no_module_imports_itself_in_a_circle() -> None:
    """Imports inside functions count: a lazy circle is a circle."""
    graph = read_module_graph()
    assert [module for module in graph if module in find_reachable(graph, module)] == []
    assert "a" in find_reachable({"a": {"b"}, "b": {"a"}}, "a")


def test_there_are_few_rungs_that_name_each_room_once_and_few_loose_modules() -> None:
    rooms = [room for rooms in RUNGS for room in rooms]
    assert len(rooms) == len(set(rooms))
    assert set(ONLY) <= set(rooms)
    assert len(RUNGS) <= 9
    assert len([path for path in (ROOT / "vidret").glob("*.py") if path.stem not in NO_ROOMS]) <= 8


def test_no_test_module_imports_another() -> None:
    """What tests share is in modules without ``test_`` in their name, such as ``tests/fakes.py``."""
    may_import = re.compile(r"\bfrom\s+\S*\btest_|\bimport\s(\([^)]*|.*)\btest_")  # to parse few of them
    imports = [
        f"{path}:{line}: imports {name}"
        for path in (file.relative_to(ROOT).as_posix() for file in sorted((ROOT / "tests").rglob("*.py")))
        if may_import.search(source := (ROOT / path).read_text("utf-8"))
        for line, name in read_imports(source, path)
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
    ]
    assert not imports, "\n" + "\n".join(imports)
