"""Whatever a JSON file from outside holds: it is read, or refused in one line."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.changing import change_each
from tests.encode.tiny import CARD, TEXT
from tests.grounded import write_head
from vidret.cli.commands.teach import read_classes, read_moments
from vidret.cli.values import iterate_queries, read_texts
from vidret.corpus.generated import read_prompts
from vidret.data.benchmarks.files import read_jsonl
from vidret.encode.clip.model import ClipModel, load_model, read_card, save_model
from vidret.errors import StoreError, VidretError
from vidret.evaluate.report import read_report
from vidret.ground.checkpoint import load_head
from vidret.ground.universalvtg import is_universal
from vidret.index.importing import read_vectors
from vidret.model_files import CARD as KEY
from vidret.model_files import TrainedOn, read_part_cards
from vidret.store.rows_file import COLLECTIONS, WATCHES, RowsFile, _checksum
from vidret.store.tokens import TOKENS, find_token
from vidret.video.scan import read_manifest

DEEP = ("[" * 100_000, '{"a":' * 100_000)
HUGE = 10**400
VALUES: list[Any] = [None, True, -1, HUGE, float("nan"), "", "\0", "\ud800", "x" * 5000, [], {}, [[1, 2]], [HUGE, "2"]]
Read = Callable[[Path], object]
SEGMENT = {"path": "a.mp4", "segment": {"start": 0, "end": 1}}
SEARCH = {"name": "a", "finds": "moments", "query": "dog", "options": {"k": 3}, "moments": []}
LISTED = {"content": "c", "path": "a.mp4", "start": 1.0, "end": 2.0, "note": "n"}
WATCH = {"name": "dogs", "query": "dog", "last_video": 3}
TOKEN = {"name": "ann", "digest": "5f", "right": "read", "collection": "", "made": ""}

# A reader of lines of JSON, and a sound line.
LINES: list[tuple[Read, Any]] = [
    (read_texts, {"captions": ["a dog", "a cat"]}),
    (lambda path: list(iterate_queries(path)), {"query": "a dog"}),
    (lambda path: list(iterate_queries(path)), {"events": ["a dog", "a cat"], "gap": 3}),
    (lambda path: list(read_moments(path)), {"path": "a.mp4", "start": 1, "end": 2}),
    (lambda path: list(read_moments(path, or_whole=True)), {"file": "a.mp4", "relevant_windows": [[1, 2]]}),
    (lambda path: read_classes([], [path]), {"class": "sport", **SEGMENT}),
    (lambda path: list(read_manifest(str(path))), {"path": "a.mp4"}),
    (lambda path: read_prompts(path, path.parent), {"prompt": "a dog", "video": "a.mp4", "topic": "pets"}),
    (lambda path: list(read_jsonl(path)), {"query": "a dog", "relevant_windows": [[1, 2]]}),
]


def check_read(read: Read, path: Path) -> None:
    """Read a file, which may be refused in one line."""
    refusal = ""
    try:
        read(path)
    except (VidretError, typer.BadParameter) as error:
        refusal = str(error).replace(str(path), "")
    assert len(refusal.splitlines()) < 2


@pytest.mark.parametrize(("read", "line"), LINES)
def test_lines(read: Read, line: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for text in (*DEEP, "9" * 5000, *map(json.dumps, change_each(line, VALUES))):
        path.write_text(text, "utf-8")
        check_read(read, path)


@pytest.mark.parametrize("read", [read_report, lambda path: list(read_moments(path))])
def test_a_document_that_is_nested_deeply(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in DEEP:
        path.write_text(text, "utf-8")
        with pytest.raises(VidretError, match="must not be nested this deeply"):
            read(path)


@pytest.mark.parametrize(
    ("rows", "row", "use"),
    [
        (COLLECTIONS, SEARCH, lambda kept: kept),
        (COLLECTIONS, {"name": "b", "finds": "", "query": "", "options": {}, "moments": [LISTED]}, lambda kept: kept),
        (WATCHES, WATCH, lambda kept: [watch.is_new(3) for watch in kept]),
        (TOKENS, TOKEN, lambda kept: find_token(kept, "a token")),
    ],
)
def test_rows_of_an_index(
    rows: RowsFile[Any], row: dict[str, Any], use: Callable[[Any], object], tmp_path: Path
) -> None:
    path = rows.path(tmp_path)
    for changed in change_each([row], VALUES):
        path.write_text(json.dumps({"checksum": _checksum(changed), rows.kind: changed}), "utf-8")
        check_read(lambda _: use(rows.read(tmp_path)), path)
    for text in DEEP:
        path.write_text(text, "utf-8")
        with pytest.raises(StoreError, match="must not be nested this deeply"):
            rows.read(tmp_path)


def load_towers(path: Path) -> None:
    card = read_card(path)
    assert card is not None
    load_model(path, card)


@pytest.mark.parametrize("read", [load_towers, load_head])
def test_cards_of_models(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    if read is load_head:
        write_head(path)
    else:
        save_model(ClipModel(replace(CARD, text=TEXT)), path)
    weights = load_file(path)
    with safe_open(path, "pt") as file:
        text = file.metadata()[KEY]
    read(path)
    for changed in (*DEEP, *map(json.dumps, change_each(json.loads(text), ("a", 10**400, [1])))):
        save_file(weights, path, {KEY: changed})
        check_read(read, path)
    save_file(weights, path, {KEY: DEEP[0]})
    assert (is_universal(path), TrainedOn.read(path), read_part_cards(path)) == (False, None, {})


def test_headers_of_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.ones((2, 3), np.float32))
    path.with_suffix(".csv").write_text("path,start,end\na.mp4,0,1\na.mp4,1,2\n", "utf-8")
    sound = path.read_bytes()
    read_vectors(path)
    for offset in range(6, 80):
        for byte in b"(\0'\n\xff":
            path.write_bytes(sound[:offset] + bytes([byte]) + sound[offset + 1 :])
            with warnings.catch_warnings(action="ignore"):  # numpy takes some for files of Python 2
                check_read(read_vectors, path)
