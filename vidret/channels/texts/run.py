"""The words of an indexing run: the tracks to read, and their texts as they arrive, stored in a ``TextStore``."""

import contextlib
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from jaxtyping import Float32

from vidret.channels.registry import KINDS, READ_KINDS, as_sentence
from vidret.channels.speech import BUNDLED
from vidret.channels.subtitles import Sidecars, digest_sidecars
from vidret.channels.texts.options import WITH_SIDECARS, WordsOptions, find_sound_model, is_installed
from vidret.channels.texts.sentence_models import (
    SentenceSpace,
    choose_sentence_space,
    is_bundled,
    load_model_of,
    name_sentence_model,
    read_space,
)
from vidret.encode.sentences import SentenceModel
from vidret.errors import VidretError
from vidret.model_files import locate_model
from vidret.store.catalog.schema import reading_metadata
from vidret.store.catalog.texts import TextTrack
from vidret.store.consent import allow, check_allowed
from vidret.store.records import HAS_TEXTS
from vidret.store.sounds import SoundStore
from vidret.store.store import Store
from vidret.store.texts.store import FOLDER, TextStore
from vidret.types import TextSource, TimedText
from vidret.video.workers.messages import ReadTexts, WordsRequest

logger = logging.getLogger(__name__)
OPTIONS = "words"  # the metadata key
SETTING = "VIDRET_WORDS"  # the environment variable
_TOLERANCE_S = 0.01
_SEGMENTS_PER_SPEECH = 4


@contextlib.contextmanager
def open_words(index: Store, options: WordsOptions | None, *, retry_failed: bool) -> "Iterator[WordsRun | None]":
    """Open the texts of an index that is open for writing, and save them at the end; None without options.

    New options are stored in the index once their models are loaded.

    Raises:
        VidretError: A model is missing or damaged.
    """
    if options is None:
        yield None
        return
    is_new = read_options(index.path) != replace(options, sentence_model="")
    if is_new:
        options.check_models()
    name, fingerprint, dim = choose_sentence_space(index.path, options.sentence_model)
    with TextStore.create(index.path, encoder=name, fingerprint=fingerprint, dim=dim) as store:
        if store.store.metadata.get(OPTIONS) != options.to_json():
            store.store.metadata.set(OPTIONS, options.to_json())
        if not index.metadata.get(HAS_TEXTS):
            index.metadata.set(HAS_TEXTS, "1")
        with SoundStore.create(index.path) if "sound" in options.sources else contextlib.nullcontext() as sounds:
            yield WordsRun(store, options, retry_failed=retry_failed, sounds=sounds, are_checked=is_new)
        store.save()


def read_options(index: str | os.PathLike[str]) -> WordsOptions | None:
    """Return the options of the last run that read words into an index; None if it has no words."""
    if not TextStore.exists(index):
        return None
    with Store.open(os.path.join(index, FOLDER)) as store:  # noqa: PTH118
        stored = store.metadata.get(OPTIONS)
        if stored is not None:
            with reading_metadata(store.path, "the options of its words"):
                return WordsOptions.from_json(str(stored))
        keys = [record.path for record in store.files.find(state="done")]
    models = {source: model for _, source, model in (key.split(" ", 2) for key in keys)}  # of a merged index
    if keys and not any(source in models for source in READ_KINDS):
        return None  # it has descriptions only
    sources = tuple(source for source in READ_KINDS if source in models) or READ_KINDS
    sound_model = find_sound_model(models.get("sound", ""))
    return WordsOptions(sources=sources, speech_model=models.get("speech", BUNDLED), sound_model=sound_model)


def choose_words(index: str | os.PathLike[str], words: bool | WordsOptions | None) -> WordsOptions | None:
    """Return the options of a run: None follows ``read_setting``, True starts to read words, False reads none.

    Raises:
        VidretError: ``words`` is something else, such as the name of a source, or VIDRET_WORDS is invalid.
    """
    if isinstance(words, WordsOptions):
        speech_model = words.speech_model if words.speech_model == BUNDLED else locate_model(words.speech_model)
        words = replace(
            words,
            speech_model=speech_model,
            sound_model=locate_model(words.sound_model),
            sentence_model=name_sentence_model(words.sentence_model),
        )
        if not is_bundled(words.sentence_model):
            allow(index, words.sentence_model)
        for source, model in (("speech", words.speech_model), ("sound", words.sound_model)):
            if source in words.sources and model:
                allow(index, model)
        return words
    if words not in (True, False, None):
        raise VidretError(f"words must be True, False, None or WordsOptions, got {words!r}")
    default = os.environ.get(SETTING) or "auto"
    return read_setting(index, {True: "on", False: "off", None: default}[words])


def read_setting(
    index: str | os.PathLike[str], setting: str, speech_model: str | None = None, sound_model: str | None = None
) -> WordsOptions | None:
    """Return the options that a value of ``--words`` means for an index: ``auto``, ``on``, ``off`` or sources.

    ``auto`` keeps the options of the index, and so does ``on`` unless it has sounds only. A new index gets all words,
    or none, with a warning, if the extra ``words`` is missing. A given ``speech_model`` or ``sound_model`` replaces
    that of the index.

    Raises:
        VidretError: A source is unknown, or the index names a model that nobody allowed.
    """
    known = None if setting == "off" else read_options(index)
    if setting == "off" or (setting == "auto" and known is None and Store.exists(index)):
        return None
    if setting == "auto" and known is None and not is_installed():
        logger.warning(
            'no words (speech, on-screen text, subtitles) are read: that needs the extra "words": pip install '
            '"vidret[words]"'
        )
        return None
    options = known or WordsOptions()
    if speech_model is not None:
        options = replace(options, speech_model=speech_model)
    elif options.speech_model != BUNDLED:
        check_allowed(index, options.speech_model, option="--speech-model")
    if sound_model is not None:
        options = replace(options, sound_model=sound_model)
    elif options.sound_model:
        check_allowed(index, options.sound_model, option="--sound-model")
    if setting == "on" and options.sources == ("sound",):
        return replace(options, sources=READ_KINDS)
    if setting in ("auto", "on"):
        return options
    names = {name.strip() for name in setting.split(",")}
    unknown = tuple(sorted(names.difference(READ_KINDS)))
    if unknown:
        raise VidretError(
            f"words must be auto, on, off or some of {', '.join(READ_KINDS)}, got {', '.join(map(repr, unknown))}"
        )
    return replace(options, sources=tuple(source for source in READ_KINDS if source in names))


def choose_sounds(words: WordsOptions | None, setting: str, sound_model: str | None = None) -> WordsOptions | None:
    """Return the options with sounds (``on``), without them (``off``), or unchanged (``auto``)."""
    known: tuple[TextSource, ...] = () if words is None else words.sources
    sources = tuple(source for source in READ_KINDS if source in known and source != "sound")
    if setting == "auto":
        return words
    if setting == "on":
        return replace(words or WordsOptions(sound_model=sound_model or ""), sources=(*sources, "sound"))
    return replace(words, sources=sources) if words is not None and sources else None


def prune_words(store: Store, words: "WordsRun | None") -> None:
    """Remove words and sounds of all contents that are no longer in an index, whether or not the run reads them."""
    SoundStore.prune_index(store.path, store.videos.fingerprints().values())
    if words is not None:
        words.store.prune(store.videos.fingerprints().values())
    elif TextStore.exists(store.path):
        with TextStore.open(store.path, write=True) as texts:
            texts.prune(store.videos.fingerprints().values())
            texts.save()


class WordsRun:
    """The words of one run. Threads may share it."""

    def __init__(
        self,
        store: TextStore,
        options: WordsOptions,
        *,
        retry_failed: bool,
        sounds: SoundStore | None = None,
        are_checked: bool = False,
    ) -> None:
        """Start a run.

        Args:
            store: Keeps the texts.
            options: The words to read, and their models.
            retry_failed: Whether tracks with a note are read again.
            sounds: Keeps windows of audio.
            are_checked: Whether the models of the options have just been loaded.
        """
        self.store, self.sounds = store, sounds
        self._options, self._retry_failed, self._are_checked = options, retry_failed, are_checked
        self._sidecars = Sidecars()
        self._complete = defaultdict[tuple[str, str], dict[str, str]](dict)  # notes by model
        for track in store.tracks():
            if track.complete:
                self._complete[track.fingerprint, track.source][track.model] = track.note
        self._lock = threading.Lock()
        self._counts: defaultdict[TextSource, int] = defaultdict(int)

    @cached_property
    def model(self) -> SentenceModel:
        """The sentence model of the texts."""
        return load_model_of(self.store)

    def check_models(self) -> None:
        """Load the models, so that a faulty installation ends the run before the first file.

        Raises:
            VidretError: A model is missing or damaged.
        """
        if not self._are_checked:  # a large model takes seconds to load
            self._options.check_models()
        _ = self.model

    def are_wanted(self, fingerprint: str, paths: Iterable[str]) -> bool:
        """Return whether any track of a content with these paths is missing, incomplete or of another model."""
        return bool(self._find_wanted(fingerprint, self._find_sidecars(paths)))

    def begin(self, fingerprint: str, paths: Iterable[str], duration_s: float) -> "ContentWords":
        """Begin to read the wanted tracks of a content, or continue where the last run ended."""
        sidecars = self._find_sidecars(paths)
        tracks = dict[TextSource, TextTrack]()
        for source, model in self._find_wanted(fingerprint, sidecars).items():
            noted = self.store.find(fingerprint, source, model)
            if noted is not None and noted.complete:
                self.store.restart(noted)
            tracks[source] = self.store.begin(fingerprint, source, model, duration_s=duration_s)
        return ContentWords(self, tracks, sidecars)

    def weigh(self, num_segments: int) -> int:
        """Return the reading time of a video's speech for the progress, in segments that take as long to encode."""
        return -(-num_segments // _SEGMENTS_PER_SPEECH) if "speech" in self._options.sources else 0

    def count(self, source: TextSource, num_texts: int) -> None:
        """Count texts as read."""
        with self._lock:
            self._counts[source] += num_texts

    def finish(self, track: TextTrack, note: str) -> None:
        """Mark a track as complete, with a note if not everything was read."""
        self.store.finish(track, note=note)
        with self._lock:  # without the note: once per run is enough
            self._complete[track.fingerprint, track.source] = {track.model: ""}  # it replaces those of other models
            self._counts[track.source] += 0

    def counts(self) -> dict[TextSource, int]:
        """Return the number of texts that were read, by source."""
        with self._lock:
            return dict(sorted(self._counts.items()))

    def _find_sidecars(self, paths: Iterable[str]) -> list[str]:
        return sorted({sidecar for path in paths for sidecar in self._sidecars.find(path)})

    def _find_wanted(self, fingerprint: str, sidecars: Iterable[str]) -> dict[TextSource, str]:
        """Return the models of the tracks that have to be read, by source."""
        models = self._options.models(digest_sidecars(sidecars))
        known = {source: self._complete.get((fingerprint, source), {}) for source in models}
        notes = {source: known[source].get(models[source]) for source in models}
        return {
            source: model
            for source, model in models.items()
            if notes[source] is None or (self._retry_failed and notes[source])
        }


class ContentWords:
    """The tracks of one content that are being read. One thread uses it."""

    def __init__(self, run: WordsRun, tracks: dict[TextSource, TextTrack], sidecars: list[str]) -> None:
        """Store the tracks; use ``WordsRun.begin``."""
        self._run, self._tracks, self._sidecars = run, tracks, sidecars
        self._stored: dict[TextSource, list[TimedText]] = {}
        self._until_s: dict[TextSource, float] = {}

    @property
    def space(self) -> SentenceSpace:
        """The sentence space of the texts."""
        return read_space(self._run.store)

    @property
    def remaining(self) -> list[TextSource]:
        """The sources that are not finished, in the order in which they are read."""
        return list(self._tracks)

    def request(self) -> WordsRequest:
        """Return the request for ``DecodePool.stream``: the remaining sources, each from where it ended."""
        request: dict[TextSource, dict[str, object]] = {}
        for source, track in self._tracks.items():
            current = self._run.store.find(track.fingerprint, source, track.model) or track
            self._tracks[source] = current
            texts = (stored.text for stored in self._run.store.transcript(current))
            # Only texts that end later can be repeated; to compare all would take quadratic time.
            self._stored[source] = [text for text in texts if text.end >= current.until_s - _TOLERANCE_S]
            self._until_s[source] = current.until_s
            request[source] = _request(source, current.model, current.until_s, self._sidecars)
        return request

    def add(self, message: ReadTexts, vectors: Float32[np.ndarray, "text dim"] | None = None) -> None:
        """Store further texts, after ``request``; their sentence vectors are computed unless they are given."""
        source, stored = message.source, self._stored[message.source]
        if message.windows is not None and self._run.sounds is not None:  # windows first: texts record how far was read
            track = self._tracks[source]
            self._run.sounds.add(track.fingerprint, message.window_model, message.windows)
            if not message.texts:
                return
        kept = [row for row, text in enumerate(message.texts) if not any(_repeats(text, known) for known in stored)]
        resumed_s = self._tracks[source].until_s
        texts = [_continue(message.texts[row], stored, resumed_s) for row in kept]
        kept_vectors = embed_texts(self._run.model, texts) if vectors is None else vectors[kept]
        self._until_s[source] = max(self._until_s[source], message.until_s)  # repeated texts end earlier
        num_new = self._run.store.add(self._tracks[source], texts, kept_vectors, until_s=self._until_s[source])
        self._run.count(source, num_new)

    def finish(self, source: TextSource, note: str) -> None:
        """Mark a source as read, with a note if not everything was."""
        track = self._tracks.pop(source)
        if source == "sound" and self._run.sounds is not None:
            self._run.sounds.keep(track.fingerprint, KINDS[source].model, find_sound_model(track.model))
        self._run.finish(track, note)


def embed_texts(model: SentenceModel, texts: Sequence[TimedText]) -> Float32[np.ndarray, "text dim"]:
    """Return the sentence vectors of texts, each encoded once: the model itself caches only a few texts."""
    sentences = [as_sentence(text) for text in texts]
    rows = {sentence: row for row, sentence in enumerate(sorted(set(sentences)))}
    return model.encode(list(rows))[[rows[sentence] for sentence in sentences]]


def _request(source: TextSource, model: str, start_s: float, sidecars: list[str]) -> dict[str, object]:
    """Return the request for a source to ``DecodePool.stream``."""
    request: dict[str, object] = {"start_s": start_s, "model": model}
    if source == "sound" and (sound_model := find_sound_model(model)):
        request["sound_model"] = sound_model
    return request | {"sidecars": sidecars} if source in WITH_SIDECARS else request


def _continue(text: TimedText, stored: Iterable[TimedText], resumed_s: float) -> TimedText:
    """Return a text that was read again from ``resumed_s`` on, starting where its stored part ends."""
    if text.start > resumed_s + _TOLERANCE_S:
        return text
    is_same = KINDS[text.source].is_same
    ends_s = [known.end for known in stored if known.start < text.start and is_same(text.text, known.text)]
    return replace(text, start=max([text.start, *ends_s]))


def _repeats(text: TimedText, known: TimedText) -> bool:
    """Return whether a text is the end of a stored one, from the frames that a resumed run reads again."""
    is_within = known.start <= text.start + _TOLERANCE_S and text.end <= known.end + _TOLERANCE_S
    return is_within and KINDS[text.source].is_same(text.text, known.text)
