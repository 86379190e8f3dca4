"""Routes for the people who are seen and the speakers who are heard: lists, faces, names, corrections."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from fastapi.responses import Response
from pydantic import BaseModel, Field

from vidret.engine import Engine
from vidret.errors import StoreError, VidretError
from vidret.serve.fields import with_rows_of
from vidret.serve.problems import RefusedError, Responses, refusals
from vidret.serve.rights import Right
from vidret.serve.rows import write_row
from vidret.store.identities.tracks import IdentityKind
from vidret.types import Person, PersonTrack

MAX_TRACKS = 500  # per person, in one answer or request
JPEG: Responses = {200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}}
Key = Annotated[int, Path(ge=1, le=2**53, examples=[7])]
Tracks = Annotated[list[Annotated[int, Field(ge=1, le=2**53)]], Field(min_length=1, max_length=MAX_TRACKS)]


@with_rows_of(Person)
class PersonRow(BaseModel):
    """Somebody who is seen or heard."""


@with_rows_of(PersonTrack)
class PersonTrackRow(BaseModel):
    """A span of a video in which a person is seen or heard."""


class PeopleAnswer(BaseModel):
    """The persons of an index, those with a name first."""

    people: list[PersonRow]


class PersonTracksAnswer(BaseModel):
    """The tracks of a person, the least certain first."""

    tracks: list[PersonTrackRow]


class PersonRequest(BaseModel, extra="forbid", json_schema_extra={"examples": [{"name": "Mum"}]}):
    """A change of a person; fields that are left out stay as they are."""

    name: str | None = Field(None, max_length=64, description="The new name; empty to remove it.")
    hidden: bool | None = Field(None, description="Whether lists leave the person out.")


class RejectRequest(BaseModel, extra="forbid", json_schema_extra={"examples": [{"tracks": [812]}]}):
    """Tracks that do not show a person."""

    tracks: Tracks


def people_routes(engine: Engine) -> APIRouter:
    """Return the routes under ``/api/people``."""
    private = Depends(Right("change", noted=False))  # names are kept out of the record
    router = APIRouter(prefix="/api/people", tags=["people"], dependencies=[private])
    persons = engine.persons

    def check(person: int) -> None:
        engine.check_index()
        try:
            persons.find(person)
        except (StoreError, VidretError) as error:
            raise RefusedError(404, f"no person has the number {person}") from error

    @router.get("")
    def list_people(kind: IdentityKind = "face", hidden: bool = False) -> PeopleAnswer:
        """List the people who are seen (face) or heard (voice); empty unless they were indexed."""
        engine.check_index()
        return PeopleAnswer(
            people=[write_row(PersonRow, person) for person in persons.list_persons(kind, hidden=hidden)]
        )

    @router.patch("/{person}", responses=refusals(400, 404))
    def change(person: Key, body: PersonRequest) -> PeopleAnswer:
        """Name, hide or show a person, and list all people."""
        check(person)
        if body.name is not None:
            persons.rename(person, body.name)
        if body.hidden is not None:
            persons.hide(person, hidden=body.hidden)
        return list_people()

    @router.get("/{person}/tracks", responses=refusals(404))
    def list_tracks(person: Key, kind: IdentityKind = "face") -> PersonTracksAnswer:
        """List where a person is seen or heard."""
        check(person)
        tracks = persons.list_tracks(person, kind)[:MAX_TRACKS]
        return PersonTracksAnswer(tracks=[write_row(PersonTrackRow, track) for track in tracks])

    @router.post("/{person}/not", responses=refusals(400, 404))
    def reject(person: Key, body: RejectRequest) -> PeopleAnswer:
        """Take tracks from a person for good, and list all people."""
        check(person)
        persons.reject(person, body.tracks)
        return list_people()

    @router.post("/undo")
    def undo() -> PeopleAnswer:
        """Undo the last change, if there is one, and list all people."""
        if persons.list_persons(hidden=True):
            persons.undo()
        return list_people()

    @router.get("/faces/{track}", response_class=Response, responses=JPEG | refusals(404))
    def show_face(track: Key) -> Response:
        """Return the best image of a face track as JPEG."""
        try:
            jpeg = persons.thumbnail(track)
        except StoreError:  # faces were not indexed
            jpeg = None
        if jpeg is None:
            raise RefusedError(404, f"no face has the number {track}")
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, no-cache"})

    return router
