"""The kinds of timed texts that an index may have; pictures are the other channel."""

from collections.abc import Mapping

from vidret.channels import screen, speech, subtitles
from vidret.channels.sounds import reading as sounds
from vidret.channels.texts.kind import TextKind
from vidret.types import Source, TextSource, TimedText

GENERATED = TextKind(source="generated", name="generated")  # by ``vidret describe``
KINDS: Mapping[Source, TextKind] = {
    kind.source: kind for kind in (speech.KIND, screen.KIND, subtitles.KIND, GENERATED, sounds.KIND)
}
# Sources that are compared by meaning only with clauses that ask for them.
HINT_NEEDED: frozenset[Source | None] = frozenset(kind.source for kind in KINDS.values() if kind.is_hint_needed)
READ_KINDS = tuple(kind.source for kind in KINDS.values() if kind.model)  # the kinds that an indexing run reads


def find_hint(text: str) -> TextSource | None:
    """Return the kind that a text hints at by its words; None if there is none."""
    return next((kind.source for kind in KINDS.values() if kind.hint is not None and kind.hint.search(text)), None)


def list_asked(hint: TextSource | None) -> set[TextSource]:
    """Return the kinds that a clause with a hint asks for: the kind hinted at, and those that share its hints."""
    return {kind.source for kind in KINDS.values() if hint is not None and hint in (kind.source, kind.also_hinted_by)}


def as_sentence(text: TimedText) -> str:
    """Return a timed text as it is embedded: speech is in quotes, which sets it apart from its subject."""
    return f'"{text.text}"' if KINDS[text.source].is_spoken else text.text
