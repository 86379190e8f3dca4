"""The ranker, head and bank of an index: as requested, as recorded in the index, or from the encoder's file."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vidret.channels.picture.calibration import load_calibration
from vidret.channels.picture.query_bank import QueryBank, find_bank, find_model_parts
from vidret.channels.picture.ranker_loading import load_ranker
from vidret.channels.picture.ranking import AUTO, NONE, Ranker
from vidret.encode.encoder import Encoder
from vidret.encode.families.registry import describe_class, is_elsewhere
from vidret.encode.names import STARTER, parse_model_name
from vidret.errors import EncoderError, OptionError, StoreError, UnknownEncoderError
from vidret.model_files import HEAD as HEAD_PART
from vidret.store.catalog.schema import parse_ranker
from vidret.store.consent import allow, check_allowed
from vidret.store.records import ENCODER_CLASS, HEAD, MOMENTS, RANKER, UNCALIBRATED
from vidret.store.store import Store

if TYPE_CHECKING:
    from vidret.search.heads.base import MomentHead


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models of a search other than the encoder.

    Attributes:
        ranker: The ranker.
        tokens: Format of stored tokens, ``int8`` or ``float16``.
        head: Path of the grounding head, ``none`` without one.
        is_head_given: Whether the head was requested, or is new to the index; otherwise the index has it recorded.
        bank: Bank of queries for the calibration of the index, from the file of the encoder; None without.
    """

    ranker: Ranker
    tokens: str
    head: str
    is_head_given: bool
    bank: QueryBank | None = None


def choose_models(path: Path, encoder: Encoder, *, rerank: str, tokens: str, head: str | os.PathLike[str]) -> Models:
    """Load the ranker for an index folder, which need not exist yet, and choose its head; see ``Engine.open``.

    Raises:
        AlignerError: The ranker cannot be loaded.
        OptionError: There is no file of the head.
        VidretError: The file of the encoder has a bank that is invalid.
        StoreError: The index was built with another encoder or for another aligner.
    """
    recorded, recorded_head = _read_recorded(path, encoder) if Store.exists(path) else ({}, None)
    if recorded:  # the format of stored tokens cannot change
        rerank, tokens = recorded["name"] if rerank == AUTO else rerank, recorded["tokens"]
    file, parts = find_model_parts(encoder.name)
    if head == AUTO and recorded_head is None and HEAD_PART in parts:
        head = file
    is_head_given = head != AUTO
    if is_head_given and head != NONE and not (isinstance(head, str | os.PathLike) and Path(head).is_file()):
        raise OptionError(f"head must be {AUTO}, {NONE} or the file of a head, got {head}")
    ranker = load_ranker(rerank, encoder, tokens=tokens)
    models = Models(
        ranker=ranker,
        bank=find_bank(encoder.name),
        tokens=tokens,
        head=os.fspath(head) if is_head_given else recorded_head or NONE,
        is_head_given=is_head_given,
    )
    _check_recorded(path, models, recorded)
    return models


def load_moment_head(path: Path, models: Models, encoder: Encoder, device: str) -> "MomentHead | None":
    """Load the grounding head of an index folder; None if it has none.

    Raises:
        VidretError: The head cannot be loaded, or does not match the encoder.
    """
    if models.head == NONE:
        return None
    from vidret.ground.checkpoint import VECTORS, read_head_card
    from vidret.ground.universalvtg import is_universal
    from vidret.search.heads.frames import FrameGrounder
    from vidret.search.heads.layers import Grounder
    from vidret.search.heads.vectors import VectorGrounder

    file = Path(models.head)
    if is_universal(file):
        return FrameGrounder(file, path / MOMENTS, device=device)
    if read_head_card(file).reads == VECTORS:
        return VectorGrounder(file, encoder, device=device)
    return Grounder(file, encoder, path / MOMENTS, tokens=models.tokens, device=device)


def describe_pipeline(path: Path, encoder: Encoder, models: Models) -> str:
    """Return the steps of an index run besides encoding as a line: merging, reranking, hubness correction, the head."""
    bank = None if models.bank is None else (models.bank.name, len(models.bank.queries))
    if Store.exists(path):
        with Store.open(path) as store:
            calibration = load_calibration(store, models.ranker)
            if calibration is not None:  # a calibration with another bank stays
                bank = calibration.bank, calibration.num_queries
            elif store.metadata.get(UNCALIBRATED):
                bank = None
    correction = "none" if bank is None else f"by {bank[1]} queries ({bank[0]})"
    name, ranker = parse_model_name(encoder.name), Path(models.ranker.name).name
    head = Path(models.head).name
    return f"{name.base}; merging {name.merge}; rerank {ranker}; hubness correction {correction}; head {head}"


def check_models(path: Path, encoder: Encoder, models: Models) -> None:
    """Check that an index can be searched with an encoder and a ranker.

    Raises:
        StoreError: It cannot be read, or was built with another encoder or for another aligner.
    """
    with Store.open(path) as store:
        check_store(store, encoder, models)


def check_store(store: Store, encoder: Encoder, models: Models) -> None:
    """Check that an open index can be searched with an encoder and a ranker; errors are those of ``check_models``."""
    store.check_encoder(encoder.name, encoder.fingerprint)
    _check_recorded(store.path, models, parse_ranker(store.path, store.metadata.get(RANKER)))


def _read_recorded(path: Path, encoder: Encoder) -> tuple[dict[str, str], str | None]:
    """Return the ranker and the head recorded in an index of an encoder; empty and None if there are none."""
    with Store.open(path) as store:
        store.check_encoder(encoder.name, encoder.fingerprint)
        return parse_ranker(path, store.metadata.get(RANKER)), str(store.metadata.get(HEAD) or "") or None


def record_ranker(store: Store, models: Models) -> None:
    """Record the ranker that an index is built for.

    Raises:
        StoreError: The index was built for another one: another process may have just created it.
    """
    if recorded := parse_ranker(store.path, store.metadata.get(RANKER)):
        _check_recorded(store.path, models, recorded)
        return
    ranker = models.ranker
    store.metadata.set(
        RANKER, json.dumps({"name": ranker.name, "fingerprint": ranker.fingerprint, "tokens": models.tokens})
    )


def record_class(store: Store, encoder: Encoder) -> None:
    """Record the class of an encoder that is not vidret's own, by which ``explain_unknown`` explains how to reopen."""
    name = describe_class(encoder)
    if name and not name.startswith("vidret.") and store.metadata.get(ENCODER_CLASS) != name:
        store.metadata.set(ENCODER_CLASS, name)


def read_encoder_name(path: Path) -> str:
    """Return the name of the encoder of an index folder, ``starter`` if there is no index.

    Raises:
        StoreError: Loading it may access other places, and nobody has allowed that; see ``consent``.
    """
    if not Store.exists(path):
        return STARTER
    with Store.open(path) as store:
        name = store.encoder_name
    if is_elsewhere(name):
        check_allowed(path, name, option="--model")
    return name


def allow_encoder(path: Path, name: str) -> None:
    """Record that an index may load an encoder, since its user has named it."""
    if is_elsewhere(name):
        allow(path, name)


def explain_unknown(path: Path, name: str, error: UnknownEncoderError) -> EncoderError:
    """Return an error that explains how to open an index made with an encoder object; otherwise the given error."""
    if not Store.exists(path):
        return error
    with Store.open(path) as store:
        is_recorded, made_by = store.encoder_name == name, str(store.metadata.get(ENCODER_CLASS) or "")
    by_class = f", or its class if it needs no arguments: --model {made_by}" if made_by else ""
    reason = f"was made with an encoder {name}, which has no name to load it by; pass the object as encoder={by_class}"
    return EncoderError(f"{path}: {reason}") if is_recorded else error


def record_head(store: Store, models: Models) -> None:
    """Record the grounding head, if it was requested."""
    if models.is_head_given:
        store.metadata.set(HEAD, NONE if models.head == NONE else str(Path(models.head).absolute()))


def _check_recorded(path: Path, models: Models, recorded: Mapping[str, str]) -> None:
    if recorded and (recorded["fingerprint"], recorded["tokens"]) != (models.ranker.fingerprint, models.tokens):
        rule = f"rerank must be {recorded['name']}, which the index was built with"
        raise StoreError(f"{path}: {rule}, got {models.ranker.name}")
