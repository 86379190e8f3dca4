"""Whether a text is English, by its letters and its function words: enough for a note, not to name a language."""

import logging
import re
import unicodedata
from collections.abc import Sequence

logger = logging.getLogger(__name__)

# Function words of other languages that hardly occur in English, not even in names such as Los Angeles or Big Sur.
OTHERS = {
    "German": "das dem der ein eine einem einen einer im ist nicht und auf zum zur für über",
    "French": "avec dans elle leur mais qui une du",
    "Spanish": "las para por una unos unas sobre",
    "Italian": "della delle dei gli nel nella sul sulla una uno degli",
    "Portuguese": "não um uma sobre pela pelo",
    "Dutch": "aan bij een het naar niet voor",
    "Polish": "nad przez się jest",
    "Turkish": "bir ile ve için",
}
ENGLISH = frozenset({"and", "are", "at", "from", "her", "his", "into", "of", "the", "their", "with"})
_FOREIGN = frozenset(word for words in OTHERS.values() for word in words.split())
NOTE = "%s knows English alone, and this seems to be another language: %.60s; for others, see --model multilingual"
_WORD = re.compile(r"[^\W\d_]+")
_noted: set[str] = set()  # the encoders


def is_english(text: str) -> bool:
    """Return whether a text may be English: mostly Latin letters, and no other language's function words alone.

    A text without function words counts as English, since names and nouns do not tell.

    >>> is_english("a dog on a beach"), is_english("ein Hund am Strand"), is_english("собака на пляже")
    (True, False, False)
    """
    letters = [letter for letter in text if letter.isalpha()]
    latin = sum(unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
    if latin * 2 < len(letters):
        return False
    words = {word.casefold() for word in _WORD.findall(text)}
    return bool(words & ENGLISH) or not words & _FOREIGN


def note_language(name: str, texts: Sequence[str]) -> None:
    """Log that an encoder knows English alone, once for each, if one of some texts is in another language."""
    other = None if name in _noted else next((text for text in texts if not is_english(text)), None)
    if other is not None:
        _noted.add(name)
        logger.warning(NOTE, name, other)
