"""The persons whom a query names: their tracks, and the effect of their presence on the evidence of clauses.

Presence is 1 in a track of the person, 0.5 within five seconds or in the same shot, and 0 elsewhere; a clause loses in
proportion to the absence. Where the person is, a description scores as without the name, and what the detector missed
is found below that.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Float64, Int64

from vidret.channels.base import ChannelQuery, Match, TimeSpan
from vidret.errors import VidretError
from vidret.search.query.clauses import QueryStructure
from vidret.search.query.grammar import check_events
from vidret.search.query.marks import straighten_quotes
from vidret.store.identities.persons import list_handles
from vidret.store.identities.store import IdentityStore
from vidret.store.lookup import find_cuts, find_middles
from vidret.store.store import Store
from vidret.store.texts.upkeep import SPOKEN
from vidret.text import MARKS, compose, make_handle
from vidret.types import ComposedQuery, Evidence, Query, list_query_texts
from vidret.types import Sequence as EventSequence

ABSENCE = 4.0  # nats that a clause loses where a person is not
SEEN = 15.0  # nats of a clause that names only persons, where they are present
NEAR_S, TOUCH_S = 5.0, 0.5  # of a track; frames of tracks are about a second apart
MAX_SPANS = 3  # that are returned for each person as evidence

APART_S = 1e7  # between the beginnings of videos, as if they followed one another

Spans = Float64[np.ndarray, " span"]
AnyQuery = TypeVar("AnyQuery", bound=Query)
FindCuts = Callable[[int], Sequence[float]]  # returns the times of a video at which new shots begin


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PersonSpans:
    """The tracks of one person, who is seen or heard in them.

    Attributes:
        handle: The name that stands for the person in a query.
        videos: The video of each track, rising.
        tracks: Start, end, quality from 0 to 1, and whether it is a voice, of each track.
        segments: The ids of the segments that the tracks overlap, rising.
        qualities: The best quality of a track in each.
    """

    handle: str
    videos: Int64[np.ndarray, " track"]
    tracks: Float64[np.ndarray, "track 4"]
    segments: Int64[np.ndarray, " segment"]
    qualities: Float64[np.ndarray, " segment"]

    def find_tracks(self, video_id: int) -> Float64[np.ndarray, "_track 4"]:
        """Return the tracks of a video."""
        return self.tracks[slice(*np.searchsorted(self.videos, [video_id, video_id + 1]))]

    def speaks(self, match: Match) -> bool:
        """Return whether a text is speech, and the person's voice is heard in at least half of it."""
        starts, ends, _, are_voices = self.find_tracks(match.video_id).T
        spans_s = np.minimum(ends, match.end) - np.maximum(starts, match.start)
        heard_s = float(np.maximum(spans_s, 0) @ are_voices)
        return match.source in SPOKEN and heard_s > 0 and 2 * heard_s >= match.end - match.start

    def rate(
        self, videos: Int64[np.ndarray, " span"], starts: Spans, ends: Spans, find_cuts: FindCuts
    ) -> tuple[Float64[np.ndarray, " span"], Float64[np.ndarray, " span"]]:
        """Return the presence of the person in spans of videos, and the best quality of the person's tracks there."""
        first, last = (np.searchsorted(self.videos, videos, side=side) for side in ("left", "right"))
        counts = last - first
        spans = np.repeat(np.arange(len(videos)), counts)  # each with each track of its video
        rows = np.arange(len(spans)) + np.repeat(first - np.cumsum(counts) + counts, counts)
        track_starts, track_ends, qualities, _ = self.tracks[rows].T
        gaps = np.maximum(track_starts - ends[spans], starts[spans] - track_ends)
        middles = (starts + ends)[spans] / 2
        shots, from_shots, to_shots = _number_shots(videos[spans], (middles, track_starts, track_ends), find_cuts)
        is_near, is_inside = (gaps <= NEAR_S) | ((from_shots <= shots) & (shots <= to_shots)), gaps <= TOUCH_S
        presence, quality = np.zeros(len(videos)), np.zeros(len(videos))
        presence[spans[is_near]] = 0.5
        presence[spans[is_inside]] = 1.0
        np.maximum.at(quality, spans[is_inside], qualities[is_inside])
        return presence, quality


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Presence:
    """The persons of a query.

    Attributes:
        wanted: The persons of each clause.
        speakers: The persons who must say the phrases of each clause.
        bare: Whether a clause names only persons.
        unwanted: The persons who must not be there.
        find_cuts: See ``FindCuts``.
    """

    wanted: tuple[tuple[PersonSpans, ...], ...]
    speakers: tuple[tuple[PersonSpans, ...], ...]
    bare: tuple[bool, ...]
    unwanted: tuple[PersonSpans, ...]
    find_cuts: FindCuts

    @property
    def persons(self) -> tuple[PersonSpans, ...]:
        """The wanted persons of all clauses, each once."""
        return tuple({person.handle: person for persons in self.wanted for person in persons}.values())

    def adjust(
        self, videos: Int64[np.ndarray, " span"], starts: Spans, ends: Spans, scores: Float[np.ndarray, "clause span"]
    ) -> Float[np.ndarray, "clause span"]:
        """Return the evidence of each clause in spans of videos, given that without persons."""
        return np.stack([self.adjust_clause(clause, videos, starts, ends, nats) for clause, nats in enumerate(scores)])

    def adjust_clause(
        self, clause: int, videos: Int64[np.ndarray, " span"], starts: Spans, ends: Spans, scores: Spans
    ) -> Spans:
        """Return the evidence of one clause in spans of videos, given that without persons."""
        adjusted: Spans = np.array(scores, np.float64)
        if persons := self.wanted[clause]:
            rated = [person.rate(videos, starts, ends, self.find_cuts) for person in persons]
            presence, quality = (np.min(values, axis=0) for values in zip(*rated, strict=True))
            lost = ABSENCE * (presence - 1)
            adjusted = SEEN * presence + quality if self.bare[clause] else adjusted + lost
        for person in self.unwanted:
            adjusted -= ABSENCE * (person.rate(videos, starts, ends, self.find_cuts)[0] == 1)
        return adjusted

    def find_spans(self, store: Store, asked: ChannelQuery) -> list[TimeSpan]:
        """Return the middles of at most ``depth`` segments in which the persons of each clause are.

        The segments are those nearest to the clause, or of the best quality if it names only persons.
        """
        found = [np.zeros(0, np.int64)]
        for clause, (persons, is_bare) in enumerate(zip(self.wanted, self.bare, strict=True)):
            if not persons:
                continue
            person_segments = [person.segments for person in persons]
            ids = reduce(np.intersect1d, person_segments)
            for person in self.unwanted:
                ids = np.setdiff1d(ids, person.segments)
            within = asked.within.among(ids if len(ids) else reduce(np.union1d, person_segments))
            if is_bare:
                best = np.argsort(-persons[0].qualities, kind="stable")
                by_quality = persons[0].segments[best]
                found.append(by_quality[np.isin(by_quality, within.ids())][: asked.depth])
            else:
                sentence = asked.encoded[clause].positive.sentence[None]
                nearest = store.search(sentence, asked.depth, within).ids[0]
                found.append(nearest[nearest >= 0])
        middles = find_middles(store, np.unique(np.concatenate(found))).values()
        return [(video_id, time_s, time_s) for video_id, time_s in middles]

    def find_middle(self, video_id: int, time_s: float) -> float:
        """Return the time at which the only clause, which names only persons, matches best: the middle of a track.

        Several persons must be there together, if they ever are. Of equally good times, the nearest to ``time_s`` is
        returned; ``time_s`` itself for a video without a track.
        """
        spans, *others = (person.find_tracks(video_id)[:, :2].tolist() for person in self.wanted[0])
        for other_tracks in others:
            both = [[max(start, other[0]), min(end, other[1])] for start, end in spans for other in other_tracks]
            spans = [span for span in both if span[0] <= span[1]] or spans + other_tracks
        middles = np.array(sorted(map(np.mean, spans), key=lambda middle_s: abs(middle_s - time_s)), np.float64)
        videos = np.full(len(middles), video_id, np.int64)
        scores = self.adjust_clause(0, videos, middles, middles, np.zeros(len(middles)))
        return float(middles[scores.argmax()]) if len(middles) else time_s

    def find_evidence(self, video_id: int, start_s: float, end_s: float) -> tuple[Evidence, ...]:
        """Return the tracks of each person in a span of a video as evidence, by time."""
        evidence: list[Evidence] = []
        for person in self.persons:
            tracks = person.find_tracks(video_id)
            gaps = np.maximum(tracks[:, 0] - end_s, start_s - tracks[:, 1])
            nearest = [row for row in np.argsort(gaps, kind="stable").tolist() if gaps[row] <= NEAR_S][:MAX_SPANS]
            evidence += [
                Evidence(
                    source="speech" if is_voice else "picture", start=start, end=end, share=0.0, person=person.handle
                )
                for start, end, _, is_voice in tracks[sorted(nearest)].tolist()
            ]
        return tuple(evidence)


class KnownPersons:
    """The persons of an open index, which may join several."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._state: object = None
        self._handles: dict[str, list[tuple[int, int]]] = {}  # the indexes and ids of each
        self._spans: dict[str, PersonSpans] = {}
        self._cuts: dict[int, tuple[float, ...]] = {}

    @property
    def handles(self) -> Mapping[str, Sequence[tuple[int, int]]]:
        """The persons by handle, each with the numbers of the indexes that have it and its ids there."""
        paths = {
            index_number: part.path
            for index_number, part in self._store.parts.items()
            if IdentityStore.exists(part.path)
        }
        state = (self._store.generation, *map(IdentityStore.read_state, paths.values()))
        if state != self._state:
            handles: dict[str, list[tuple[int, int]]] = {}
            for index_number, path in paths.items():
                with IdentityStore.open(path) as identities:
                    for handle, person in list_handles(identities).items():
                        handles.setdefault(handle, []).append((index_number, person))
            self._state, self._handles, self._spans, self._cuts = state, handles, {}, {}
        return self._handles

    def find_handles(self, query: Query) -> Collection[str]:
        """Return the handles of all persons; none, without reading identities, if a query has no mention."""
        return self.handles if any("@" in text for text in list_query_texts(query)) else ()

    def name_handles(self, query: AnyQuery) -> AnyQuery:
        """Return a query with the names of persons as their handles: "@Anna Maria dances" is "@anna-maria dances".

        Curly quotes become straight ones, unless the texts are to be compared as they are written.
        """
        if isinstance(query, EventSequence):
            check_events(query)
            name = partial(self._name, verbatim=query.verbatim)
            named = (name(event) if isinstance(event, str) else tuple(map(name, event)) for event in query.events)
            return replace(query, events=tuple(named))
        if isinstance(query, ComposedQuery):
            return replace(query, text=self._name(query.text, verbatim=query.verbatim))
        return self._name(query) if isinstance(query, str) else query  # type: ignore[return-value]

    def _name(self, text: str, *, verbatim: bool = False) -> str:
        text = text if verbatim else straighten_quotes(compose(text))
        if "@" not in text:
            return text
        names = sorted((handle for handle in self.handles if "-" in handle), key=len, reverse=True)
        if not names:
            return text
        spaced = "|".join(re.escape(name).replace(r"\-", r"[\s-]+") for name in names)
        mention = rf'(?<![^\s("-])@({spaced})(?![\w{MARKS}-])'

        def write_handle(match: re.Match[str]) -> str:
            if match[0].startswith("-"):
                return re.sub(mention, write_handle, match[0], flags=re.IGNORECASE)
            return f"@{make_handle(match[1])}" if match[1] else match[0]

        # Text in quotes is a phrase as it is, unless it is excluded.
        quoted = rf'(?:(?<=\s)|^)-"[^"]*"|"[^"]*"|{mention}'
        return re.sub(quoted, write_handle, text, flags=re.IGNORECASE)

    def read_names(self, person: str | None) -> tuple[str, ...]:
        """Return the handles of the persons of an option, which are separated by commas.

        Raises:
            VidretError: One is unknown.
        """
        names = tuple(make_handle(name.strip().removeprefix("@")) for name in person.split(",")) if person else ()
        for name in names:
            if name not in self.handles:
                got = name or "an empty name"
                raise VidretError(f"person must be one of the index, got {got}; to list them: vidret people")
        return names

    def find_presence(self, structure: QueryStructure) -> Presence | None:
        """Return the persons of a query; None if it names none."""
        if not (structure.unwanted or any(clause.persons for clause in structure.clauses)):
            return None
        wanted = tuple(tuple(map(self._find, clause.persons)) for clause in structure.clauses)
        unwanted = tuple(map(self._find, structure.unwanted))
        return Presence(
            wanted=wanted,
            speakers=tuple(tuple(map(self._find, clause.speakers)) for clause in structure.clauses),
            bare=tuple(clause.is_bare for clause in structure.clauses),
            unwanted=unwanted,
            find_cuts=self._find_cuts,
        )

    def _find_cuts(self, video_id: int) -> tuple[float, ...]:
        cuts = self._cuts  # another thread may replace the attribute, like that of spans
        if video_id not in cuts:
            cuts[video_id] = find_cuts(self._store, video_id)
        return cuts[video_id]

    def _find(self, handle: str) -> PersonSpans:
        known, spans = self.handles.get(handle, ()), self._spans
        if handle not in spans:
            spans[handle] = self._read(handle, known)
        return spans[handle]

    def _read(self, handle: str, known: Sequence[tuple[int, int]]) -> PersonSpans:
        sql = """SELECT content, start_s, end_s, quality, kind = 'voice' FROM assignments
            JOIN tracks ON tracks.id = track JOIN models ON digest = model WHERE person = ?"""
        found: set[tuple[str, float, float, float, int]] = set()  # a video in several indexes has its tracks in each
        for index_number, person in known:
            with IdentityStore.open(self._store.parts[index_number].path) as identities:
                found.update(identities.database.rows(sql, person))
        rows = sorted(found)
        videos = self._store.find_contents({row[0] for row in rows})
        best = max((row[3] for row in rows), default=1.0) or 1.0
        tracks: list[tuple[int, float, float, float, int]] = []
        segments: dict[int, float] = {}
        for content, start, end, quality, is_voice in rows:
            if (video := videos.get(content)) is not None:
                share = float(np.clip(quality / best, 0, 1))
                tracks.append((video, start, end, share, is_voice))
                for key in self._store.overlapping_segments([(video, start, end)]).tolist():
                    segments[key] = max(segments.get(key, 0.0), share)
        ids = np.array(sorted(segments), np.int64)
        tracks.sort(key=lambda track: track[0])
        return PersonSpans(
            handle=handle,
            videos=np.array([video for video, *_ in tracks], np.int64),
            tracks=np.array([fields for _, *fields in tracks], np.float64).reshape(-1, 4),
            segments=ids,
            qualities=np.array([segments[key] for key in ids.tolist()], np.float64),
        )


def _number_shots(
    videos: Int64[np.ndarray, " time"], times: Sequence[Float64[np.ndarray, " time"]], find_cuts: FindCuts
) -> list[Int64[np.ndarray, " time"]]:
    """Return numbers of the shots of videos at several times of each; those of one video rise with time."""
    different, video_indices = np.unique(videos, return_inverse=True)
    cuts = [
        np.zeros(0),
        *(video_index * APART_S + np.array(find_cuts(video)) for video_index, video in enumerate(different.tolist())),
    ]
    edges = np.concatenate(cuts)
    return [np.searchsorted(edges, video_indices * APART_S + times_s, side="right") for times_s in times]
