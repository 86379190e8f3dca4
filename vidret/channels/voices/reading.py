"""Voices of a video as tracks, from its audio while it is decoded: who speaks when, and a vector of each voice."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from vidret.channels.speech import BLOCK_S, SAMPLE_RATE, find_quietest, find_speech
from vidret.channels.texts.kind import Heartbeat
from vidret.channels.voices.encoder import VoiceEncoder, load_voice_encoder
from vidret.channels.voices.turns import Span, find_turns, place_windows
from vidret.store.identities.tracks import Track

if TYPE_CHECKING:
    from vidret.video.probe import VideoInfo


class VoiceReader:
    """Finds the turns of speakers in one video at a time. All turns of a speaker in a video have the same vector."""

    def __init__(self, encoder: VoiceEncoder) -> None:
        """Start with an encoder."""
        self._encoder = encoder
        self.start(0.0, {})

    def start(self, _start_s: float, _options: Mapping[str, Any]) -> float:
        """Begin another video; return the time from which audio is needed: all voices of it are compared."""
        self._begin_s, self._pending = 0.0, list[Float32[np.ndarray, " sample"]]()
        self._speech, self._windows = list[Span](), list[Span]()
        self._vectors = list[Float32[np.ndarray, "window dim"]]()
        return 0.0

    def read(self, samples: Float32[np.ndarray, " sample"]) -> None:
        """Read the next samples."""
        self._pending.append(samples)
        if sum(map(len, self._pending)) > BLOCK_S * SAMPLE_RATE:
            audio = np.concatenate(self._pending)
            cut = find_quietest(audio[: round(BLOCK_S * SAMPLE_RATE)])
            self._encode(audio[:cut])
            self._pending = [audio[cut:]]

    def take(self) -> tuple[float, list[Track]]:
        """Return no tracks: who speaks is known at the end."""
        return 0.0, []

    def finish(self, _info: "VideoInfo", _heartbeat: Heartbeat) -> list[Track]:
        """Return the turns of a video, of which all audio was read."""
        if self._pending:
            self._encode(np.concatenate(self._pending))
        vectors = np.concatenate(self._vectors) if self._windows else np.zeros((0, 1), np.float32)
        turns, means = find_turns(self._speech, self._windows, vectors, self._encoder.same_in_film)
        self.start(0.0, {})
        return [
            Track(start_s=turn.start_s, end_s=turn.end_s, vector=means[turn.speaker], quality=turn.end_s - turn.start_s)
            for turn in turns
        ]

    def _encode(self, audio: Float32[np.ndarray, " sample"]) -> None:
        """Encode the speech of a block that is cut in silence."""
        speech = find_speech(audio)
        windows = place_windows(speech)
        pieces = [audio[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)] for start_s, end_s in windows]
        if pieces:
            self._vectors.append(self._encoder.encode(pieces))
        for spans, own in ((self._speech, speech), (self._windows, windows)):
            spans += [(self._begin_s + start_s, self._begin_s + end_s) for start_s, end_s in own]
        self._begin_s += len(audio) / SAMPLE_RATE


def load_voice_reader(name: str) -> VoiceReader:
    """Return a reader with an encoder of this name."""
    return VoiceReader(load_voice_encoder(name))
