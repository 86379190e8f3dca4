"""Sounds as a kind of timed texts: "music", "silence", and what captions name."""

import functools
import re

from vidret.channels.texts.kind import AudioReader, TextKind
from vidret.types import TimedText


@functools.lru_cache(maxsize=1)
def _load_reader() -> AudioReader[TimedText]:
    from vidret.channels.sounds.reading import SoundReader

    return SoundReader()


# Words of what is heard rather than seen or said.
_HINT = re.compile(
    r"\b(sounds?|noises?|nois[yi]\w*|music\w*|songs?|melod\w+|soundtrack|silence|loud\w*|applau\w+|clapping"
    r"|cheer(?:s|ing)|laugh(?:s|ter|ing)|chuckl\w+|giggl\w+|bark(?:s|ing)|meow\w*|chirp\w*|birdsong|siren\w*|alarms?"
    r"|gunshots?|explosions?|thunder|bells?|ringing|knock(?:s|ing)?|whistl\w+|scream\w*|sing(?:s|ing)|hum(?:s|ming)"
    r"|buzz\w*|beep\w*|footsteps|thud|bangs?|crash(?:es|ing)?|sobbing|crying|sighs?|cough\w*)\b",
    re.IGNORECASE,
)
KIND = TextKind(
    source="sound",
    name="sounds",
    label="heard",
    model="whisper-tiny.en-1",
    package="faster_whisper",
    load_audio_reader=lambda: _load_reader(),
    hint=_HINT,
    is_hint_needed=True,
    join_nats=2.5,
)
