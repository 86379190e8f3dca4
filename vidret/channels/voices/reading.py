"""Voices of a video as tracks, from its audio while it is decoded: who speaks when, and a vector of each voice."""

import contextlib

import numpy as np
from jaxtyping import Float32

from vidret.channels.speech import BLOCK_S, SAMPLE_RATE, find_quietest, find_speech
from vidret.channels.texts.kind import Heartbeat
from vidret.channels.voices.encoder import VoiceEncoder, load_voice_encoder
from vidret.channels.voices.turns import Span, find_turns, place_windows
from vidret.errors import DecodeError
from vidret.store.identities.tracks import Track
from vidret.video.audio import read_audio


class VoiceReader:
    """Finds the turns of speakers in one video. All turns of a speaker have the same vector."""

    def __init__(self, encoder: VoiceEncoder) -> None:
        """Start with an encoder."""
        self._encoder = encoder
        self._begin_s, self._pending = 0.0, list[Float32[np.ndarray, " sample"]]()
        self._speech, self._windows = list[Span](), list[Span]()
        self._vectors = list[Float32[np.ndarray, "window dim"]]()

    def read(self, samples: Float32[np.ndarray, " sample"]) -> None:
        """Read the next samples."""
        self._pending.append(samples)
        if sum(map(len, self._pending)) > BLOCK_S * SAMPLE_RATE:
            audio = np.concatenate(self._pending)
            cut = find_quietest(audio[: round(BLOCK_S * SAMPLE_RATE)])
            self._encode(audio[:cut])
            self._pending = [audio[cut:]]

    def finish(self) -> list[Track]:
        """Return the turns, once all audio was read."""
        if self._pending:
            self._encode(np.concatenate(self._pending))
        vectors = np.concatenate(self._vectors) if self._windows else np.zeros((0, 1), np.float32)
        turns, means = find_turns(self._speech, self._windows, vectors, self._encoder.same_in_film)
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


def read_voices(path: str, model: str, heartbeat: Heartbeat) -> list[Track]:
    """Return the turns of speakers in a file; none if it has no sound that can be decoded.

    Raises:
        VidretError: The model cannot be loaded.
    """
    reader, is_first = VoiceReader(load_voice_encoder(model)), True
    with contextlib.suppress(DecodeError):
        for time_s, samples in read_audio(path, SAMPLE_RATE, heartbeat=heartbeat):
            if is_first:  # the sound may begin later than the video
                reader.read(np.zeros(round(time_s * SAMPLE_RATE), np.float32))
            reader.read(samples)
            is_first = False
    return reader.finish()
