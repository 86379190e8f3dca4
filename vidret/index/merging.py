"""Merging of separately built indexes.

First, an index is chosen as the source for each path, then the contents at these paths are copied, then the paths are
written. An interrupted merge can be continued, and a repeated one adds nothing.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from vidret.channels.picture.calibration import is_calibrated_by_user
from vidret.channels.texts.options import WordsOptions
from vidret.channels.texts.run import read_options
from vidret.disk import replacing
from vidret.errors import StoreError, VidretError, read_fault
from vidret.index.copying import ContentCopier, TextMerge, copy_collections, copy_concepts, copy_watches
from vidret.store.catalog.schema import parse_ranker
from vidret.store.consent import allow, is_allowed
from vidret.store.identities.persons import Persons, check_no_person
from vidret.store.identities.tracks import MODEL_SETTINGS
from vidret.store.identities.upkeep import copy_identities
from vidret.store.records import (
    CONCEPT,
    ENCODER_CLASS,
    HAS_TEXTS,
    HEAD,
    KEPT,
    MOMENTS,
    PROBABILITIES,
    PROJECTED,
    RANKER,
    SAMPLING,
    SEGMENTS,
    UNCALIBRATED,
    FileRecord,
    FileState,
)
from vidret.store.sounds import copy_sounds
from vidret.store.store import Store
from vidret.store.texts.store import TextStore

# Among indexes with the same content at a path, the one with the highest state is believed.
STATE_RANKS = {state: rank for rank, state in enumerate(("failed", "missing", "pending", "running", "done"))}


@dataclass(frozen=True, slots=True)
class FileClaim:
    """The record of a path in an index; ``content`` is the fingerprint of the file, empty if unknown."""

    origin: Store
    record: FileRecord
    content: str

    @property
    def mtime_ns(self) -> int:
        """Return the modification time of the file in the index, -1 if unknown."""
        return -1 if self.record.mtime_ns is None else self.record.mtime_ns

    @property
    def state_rank(self) -> int:
        """Return the progress of the index with the file, as a rank."""
        return STATE_RANKS[self.record.state]


def compare_indexes(indexes: Sequence[Store]) -> tuple[dict[str, str], list[str]]:
    """Check that indexes can be merged.

    Returns:
        The facts about the aligner, the grounding head, the class of the encoder, and the models of faces and voices,
        by key, each from the first index that has it; and notes on differences.

    Raises:
        StoreError: Two indexes have different encoders, or tokens that were packed for different aligners.
    """
    first, *others = indexes
    notes = []
    for other in others:
        if other.encoder_fingerprint != first.encoder_fingerprint:
            one, another = (f"{store.encoder_name} ({store.encoder_fingerprint})" for store in (first, other))
            raise StoreError(
                f"{other.path}: built with {another}, cannot be merged with {first.path}, built with {one}"
            )
        if other.encoder_name != first.encoder_name:
            notes.append(f"{other.path}: its encoder {other.encoder_name} is {first.encoder_name} in the merged index")
    notes += _compare_aligners(indexes)
    keys = (RANKER, HEAD, ENCODER_CLASS, *MODEL_SETTINGS.values())
    facts = {key: next(filter(None, (get_fact(index, key) for index in indexes)), "") for key in keys}
    heads = [(index, get_fact(index, HEAD) or "none") for index in indexes if facts[HEAD]]
    notes += [
        f"{index.path}: its grounding head {head} is {facts[HEAD]} in the merged index"
        for index, head in heads
        if head != facts[HEAD]
    ]
    return facts, notes


def _compare_aligners(indexes: Sequence[Store]) -> list[str]:
    """Return notes on aligners with different names; raise StoreError if two aligners or their tokens differ."""
    # An empty index that was not prepared for an aligner is compatible with all.
    nothing = {"name": "nothing", "fingerprint": "", "tokens": "none"}
    recorded = [(index, get_fact(index, RANKER)) for index in indexes]
    settings = [
        (index, nothing | parse_ranker(index.path, stored))
        for index, stored in recorded
        if stored or index.videos.fingerprints()
    ]
    notes = []
    for index, aligner in settings[1:]:
        first, expected = settings[0]
        if (aligner["fingerprint"], aligner["tokens"]) != (expected["fingerprint"], expected["tokens"]):
            conflict = f"cannot be merged with {first.path}, prepared for {_describe_aligner(expected)}"
            raise StoreError(f"{index.path}: prepared for {_describe_aligner(aligner)}, {conflict}")
        if aligner["name"] != expected["name"]:
            notes.append(f"{index.path}: its aligner {aligner['name']} is {expected['name']} in the merged index")
    return notes


def _describe_aligner(aligner: Mapping[str, str]) -> str:
    return f"{aligner['name']} ({aligner['fingerprint'][:8] or 'no aligner'}, tokens {aligner['tokens']})"


def is_more_reliable(new: FileClaim, old: FileClaim) -> bool:
    """Return whether to believe ``new`` rather than ``old``; if neither is more reliable, the older claim stays.

    For the same content, the index with the higher state is believed. Otherwise the file has changed, and the claim
    with the later modification time is believed.
    """
    is_further = new.state_rank > old.state_rank
    if new.content == old.content and "failed" not in (new.record.state, old.record.state):
        return is_further
    return new.mtime_ns > old.mtime_ns or (new.mtime_ns == old.mtime_ns and is_further)


def contradict(new: FileClaim, old: FileClaim) -> bool:
    """Return whether two indexes have recorded different contents, or a success and a failure, at the same path."""
    if new.content and old.content and new.content != old.content:
        return True
    return {new.record.state, old.record.state} == {"done", "failed"}


def get_fact(index: Store, key: str) -> str:
    """Return a fact about an index, empty if it is not set."""
    return str(index.metadata.get(key) or "")


@dataclass(frozen=True, slots=True)
class MergeReport:
    """The result of a merge.

    Attributes:
        copied: Number of contents that were copied.
        completed: Number of contents of which the target had only some segments.
        known: Number of contents that the target had already.
        num_segments: Number of copied segments.
        added: Number of paths that are new in the target.
        changed: Number of paths that the target had with another record.
        moments: Number of copied files of projected tokens for grounding heads.
        texts: Number of copied timed texts.
        concepts: Number of copied taught concepts.
        watches: Number of copied watches.
        identities: Number of copied tracks of faces and voices.
        collections: Number of copied saved searches and lists.
        damaged: Paths whose content could not be copied completely, with reasons.
        disagreed: Paths about which indexes disagree, with the index that is believed.
        notes: Other differences between the merged index and its sources.
        elapsed: Seconds that the merge took.
        interrupted: Whether the merge was interrupted.
    """

    copied: int = 0
    completed: int = 0
    known: int = 0
    num_segments: int = 0
    added: int = 0
    changed: int = 0
    moments: int = 0
    texts: int = 0
    concepts: int = 0
    watches: int = 0
    identities: int = 0
    collections: int = 0
    damaged: list[tuple[str, str]] = field(default_factory=list)
    disagreed: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    elapsed: float = 0.0
    interrupted: bool = False


def merge_indexes(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> MergeReport:
    """Copy the contents of indexes into another one, which is created if it does not exist.

    Vectors, times, tokens, timed texts, concepts and projected tokens of grounding heads are copied bit for bit. The
    vectors for search and the full-text index are built again. Baselines are measured again by
    ``Engine.prepare_searches``, or else at the next indexing or search. Calibrations with other banks than the model's
    are lost, which the report notes. An interrupt (Ctrl-C) ends the merge, and the next one continues from there.

    Args:
        sources: Folders of the indexes to copy, which are only read.
        out: Folder of the index to write.
        on_progress: Called with the finished and the total number of segments, paths and projected files.

    Raises:
        StoreError: The indexes have different encoders or aligners, or ``out`` is one of the sources; nothing was
            written. Or an index cannot be read or written. Damaged segments raise nothing.
    """
    started = time.monotonic()
    if not sources:
        raise StoreError("indexes must be at least one, got none")
    for source in sources:
        if Path(source).resolve() == Path(out).resolve():
            raise StoreError(f"{out}: out must not be one of the indexes to merge, got itself")
    with ExitStack() as stack:
        opened = [stack.enter_context(Store.open(source)) for source in sources]
        texts = [stack.enter_context(TextStore.open(source)) for source in sources if TextStore.exists(source)]
        if Store.exists(out):
            with Store.open(out) as existing:
                facts, notes = compare_indexes([existing, *opened])
        else:
            facts, notes = compare_indexes(opened)
        name, fingerprint, dim = opened[0].encoder_name, opened[0].encoder_fingerprint, opened[0].dim
        _allow_models(out, opened, texts)
        target = stack.enter_context(Store.create(out, encoder_name=name, encoder_fingerprint=fingerprint, dim=dim))
        merge = Merge(target, opened, texts, on_progress or (lambda _done, _total: None))
        interrupted = False
        try:
            merge.run(facts)
            target.upkeep.save_vectors()
        except KeyboardInterrupt:
            interrupted = True
        return merge.report(notes, time.monotonic() - started, interrupted=interrupted)


def _allow_models(out: str | os.PathLike[str], indexes: Sequence[Store], texts: Sequence[TextStore]) -> None:
    """Give the merged index consent to use the models that all of the indexes with them may use."""
    named = defaultdict[str, list[Path]](list)
    for index in indexes:
        for name in (index.encoder_name, *(get_fact(index, key) for key in MODEL_SETTINGS.values())):
            named[name].append(index.path)
    for text_store in texts:
        folder = text_store.store.path.parent
        options = read_options(folder) or WordsOptions()
        for name in (text_store.store.encoder_name, options.speech_model, options.sound_model):
            named[name].append(folder)
    for name, folders in named.items():
        if all(is_allowed(folder, name) for folder in folders):
            allow(out, name)


class Merge:
    """A merge in progress: the believed claims, and counts for the report."""

    def __init__(
        self,
        target: Store,
        sources: Sequence[Store],
        texts: Sequence[TextStore],
        on_progress: Callable[[int, int], None],
    ) -> None:
        self.target, self.sources, self.on_progress = target, sources, on_progress
        self._own_records = {record.path: record for record in target.files.find()}
        self._copier = ContentCopier(target, self._advance)
        self._texts = TextMerge(target.path, texts, self._advance)
        self._known_contents = frozenset(self._copier.video_ids)  # in the target before the merge, at least in part
        self._claims: dict[str, FileClaim] = {}
        self._disagreed: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._notes: list[str] = []
        self._done = self._total = 0

    def run(self, facts: Mapping[str, str]) -> None:
        """Copy everything except the vectors for search; ``facts`` are those of ``compare_indexes``."""
        for key, fact in facts.items():
            if fact and self.target.metadata.get(key) is None:  # forgotten faces are not read again
                self.target.metadata.set(key, fact)
        if not (self._known_contents or get_fact(self.target, SEGMENTS)):  # a new index
            rules = {key: get_fact(self.sources[0], key) for key in (SEGMENTS, SAMPLING, UNCALIBRATED)}
            self.target.metadata.set_many({key: rule for key, rule in rules.items() if rule})
        self._choose_claims()
        wanted = {claim.content for claim in self._claims.values() if claim.content}
        jobs, projected = self._copier.list_jobs(self.sources, wanted), self._list_projected(wanted)
        self._texts.plan(wanted)
        self._total = sum(job.num_stored for job in jobs) + len(self._claims) + len(projected) + len(self._texts.jobs)
        self._copier.copy(jobs)
        self._write_paths()
        self._copy_projected(projected)
        self._texts.run()
        if TextStore.exists(self.target.path):
            self.target.metadata.set(HAS_TEXTS, "1")
        for name, (num_copied, notes) in {
            "concepts": copy_concepts(self.target, self.sources),
            "watches": copy_watches(self.target, self.sources, self._copier.video_ids),
            "collections": copy_collections(self.target, self.sources),
        }.items():
            self._counts[name] = num_copied
            self._notes += notes
        copy_sounds(self.target.path, [source.path for source in self.sources], wanted)
        self._counts["identities"] = copy_identities(self.target.path, [source.path for source in self.sources], wanted)
        Persons(self.target.path).group()
        for key in self.target.metadata.keys(f"{CONCEPT}."):
            if self.target.metadata.get(key):  # a forgotten concept is stored as empty
                try:
                    check_no_person(self.target.path, key.removeprefix(f"{CONCEPT}."))
                except VidretError as error:
                    self._notes.append(str(error))

    def report(self, notes: Sequence[str], elapsed: float, *, interrupted: bool) -> MergeReport:
        """Return the report of the merge."""
        paths = {claim.content: path for path, claim in self._claims.items()}
        return MergeReport(
            copied=len(self._copier.copied - self._known_contents),
            completed=len(self._copier.copied & self._known_contents),
            **self._counts,
            **self._copier.counts,
            texts=self._texts.num_texts,
            damaged=[(paths[content], reason) for content, reason in (*self._copier.damaged, *self._texts.damaged)],
            disagreed=sorted(self._disagreed.items()),
            notes=[*notes, *self._texts.notes, *self._notes, *self._describe_lost_calibrations()],
            elapsed=elapsed,
            interrupted=interrupted,
        )

    def _choose_claims(self) -> None:
        """Decide which index to believe about each path."""
        for index in (self.target, *self.sources):
            contents = index.videos.fingerprints()
            for record in index.files.find():
                content = "" if record.video is None else contents.get(record.video, "")
                new = FileClaim(origin=index, record=record, content=content)
                old = self._claims.setdefault(record.path, new)
                better, worse = (new, old) if is_more_reliable(new, old) else (old, new)
                self._claims[record.path] = better
                if contradict(new, old):
                    why = "its file changed later" if better.mtime_ns > worse.mtime_ns else "it was given first"
                    self._disagreed[record.path] = f"{better.origin.path} is believed, not {worse.origin.path}: {why}"

    def _list_projected(self, wanted: Container[str]) -> list[tuple[Path, Path]]:
        """Return the files of projected tokens that the target lacks, as (source, destination)."""
        sources: dict[Path, Path] = {}
        for index in self.sources:
            folder = index.path / MOMENTS
            for path in folder.glob(f"*/{KEPT}/*{PROJECTED}"):
                destination = self.target.path / MOMENTS / path.relative_to(folder)
                if path.stem in wanted and not destination.exists():
                    sources.setdefault(destination, path)
        return [(path, destination) for destination, path in sources.items()]

    def _write_paths(self) -> None:
        """Write the believed record of each path, unless the target has it already."""
        for path, claim in self._claims.items():
            new, old = claim.record, self._own_records.get(path, FileRecord(path, ""))
            video_id = self._copier.video_ids.get(claim.content)
            record = FileRecord(
                path,
                self._choose_state(new.state, claim.content),
                new.reason,
                old.video if video_id is None else video_id,
                old.num_bytes if new.num_bytes is None else new.num_bytes,
                old.mtime_ns if new.mtime_ns is None else new.mtime_ns,
            )
            if record != old:
                self._counts["changed" if path in self._own_records else "added"] += 1
                self.target.writer.set_file(
                    path,
                    state=cast(FileState, record.state),
                    reason=record.reason,
                    video=record.video,
                    num_bytes=record.num_bytes,
                    mtime_ns=record.mtime_ns,
                )
            self._advance(1)

    def _choose_state(self, state: str, content: str) -> str:
        """Return the state of a path; an incomplete content is pending, so that the next run encodes it."""
        if state in ("failed", "missing") or not content:
            return state
        if self.target.videos.find_complete(content) is not None:
            return "done"
        return "pending"

    def _copy_projected(self, files: Iterable[tuple[Path, Path]]) -> None:
        """Copy files of projected tokens, each atomically."""
        for path, destination in files:
            try:
                content = path.read_bytes()
            except OSError as error:
                raise StoreError(f"{path}: cannot be read ({read_fault(error)})") from error
            with replacing(destination) as draft:
                draft.write_bytes(content)
            self._counts["moments"] += 1
            self._advance(1)

    def _describe_lost_calibrations(self) -> list[str]:
        """Return a note for each index whose calibration does not apply to the merged index."""
        again = "run vidret calibrate again"
        return [
            f"{index.path}: its calibration is not copied: {again}"
            for index in self.sources
            if is_calibrated_by_user(index) or index.metadata.get(PROBABILITIES)
        ]

    def _advance(self, num_steps: int) -> None:
        self._done += num_steps
        self.on_progress(self._done, self._total)
