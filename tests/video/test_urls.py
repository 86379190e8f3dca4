"""Videos at addresses: the same frames and facts as of files, in few ranges, and a sentence for all that goes wrong."""

import math
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import write_pictures
from tests.stores import FileServer, serve_files
from tests.video.conftest import NAMES, Film
from tests.video.films import draw, read_numbers, write_video
from vidret.errors import ChangedError, DecodeError, MissingExtraError, UnreachableError, VidretError
from vidret.present.html import FrameImages
from vidret.types import NO_TIME
from vidret.video import ranges, urls
from vidret.video.decoders.registry import choose_decoder
from vidret.video.files import stat_files
from vidret.video.identity import BLOCK, check_unchanged, fingerprint, identify
from vidret.video.probe import VideoInfo, probe
from vidret.video.reader import open_reader, read_frames
from vidret.video.scan import list_videos, scan
from vidret.video.urls import check_url, open_store, parse_stat, stat_url

needs_fsspec = pytest.mark.scale
SIZE = (320, 240)


def put(name: str, data: bytes) -> str:
    """Put a file into fsspec's memory; give its address."""
    address = f"memory://{name}"
    store, path = open_store(address)
    store.pipe_file(path, data)
    return address


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin with nothing kept and nothing stored, and do not wait before asking again."""
    monkeypatch.setattr(ranges, "_CACHE", ranges._BlockCache())
    monkeypatch.setattr(urls, "RETRY_PAUSES_S", (0.01, 0.01))
    yield
    if "fsspec" in sys.modules:
        store, _ = open_store("memory://")
        store.store.clear()
        store.pseudo_dirs[:] = [""]


@pytest.fixture(scope="session")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a film of 6 seconds and some 10 MB whose times stand at its end, and the same with them at its start."""
    folder = tmp_path_factory.mktemp("heavy")
    random = np.random.default_rng(0)
    pictures = []
    for frame_number in range(160):
        noise = random.integers(-40, 40, (SIZE[1], SIZE[0], 1))
        pictures.append(np.clip(draw(frame_number, *SIZE).astype(np.int16) + noise, 0, 255).astype(np.uint8))
    for name in ("end.mp4", "start.mp4"):
        path = write_pictures(folder / name, pictures, 25, faststart=name == "start.mp4", g="5", crf="4")
        assert path.stat().st_size > 8 << 20
    return folder


@pytest.fixture
def served(heavy: Path) -> Iterator[FileServer]:
    with serve_files(heavy) as server:
        yield server


def differences(one: VideoInfo, other: VideoInfo) -> list[str]:
    names = [field.name for field in fields(one) if field.name != "path"]
    return [name for name in names if not np.array_equal(getattr(one, name), getattr(other, name))]


# The same as a file


@needs_fsspec
@pytest.mark.parametrize("name", NAMES)
def test_facts_and_frames_are_those_of_the_file(films: dict[str, Film], name: str) -> None:
    path = films[name].path
    address = put(name, path.read_bytes())
    assert differences(probe(path), probe(address)) == []
    whole = read_frames(str(path), indices=range(films[name].num_frames), decoder="pyav")
    assert (read_frames(address, indices=range(films[name].num_frames)).pixels == whole.pixels).all()
    with open_reader(probe(address)) as reader:
        for index in (77, 3, 41, 99):
            index %= films[name].num_frames
            assert (reader.read([index]).pixels[0] == whole.pixels[index]).all()


@needs_fsspec
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_times_are_those_of_the_file_where_sound_comes_first(tmp_path: Path, suffix: str) -> None:
    film = write_video(tmp_path / f"late.{suffix}", range(50), options={"bf": "2"}, shift=125, audio=True)
    info = probe(put(film.name, film.read_bytes()))
    assert info.start > 4.9
    assert differences(probe(film), info) == []


@needs_fsspec
@pytest.mark.parametrize("size", [3 * BLOCK + 1, 5 * BLOCK + 17])
def test_a_large_file_is_known_by_headers_and_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    for small in (1, 3 * BLOCK):
        (tmp_path / "file").write_bytes(bytes(small))
        assert fingerprint(put("file", bytes(small))) == fingerprint(tmp_path / "file"), "as of a copy here"
    data = bytearray(np.random.default_rng(size).bytes(size))
    address = put("file", bytes(data))
    before = fingerprint(address)
    assert before == fingerprint(address)
    assert before.startswith("sampled-")
    data[BLOCK + 1] ^= 1  # which no sample holds
    assert fingerprint(put("file", bytes(data))) != before, "its time is another one"

    kind = type(open_store(address)[0])
    info = kind.info
    monkeypatch.setattr(kind, "info", lambda self, path: info(self, path) | {"ETag": "one"})
    tagged = fingerprint(put("file", bytes(data)))
    assert fingerprint(put("copy", bytes(data))) == tagged, "a copy with the same tag is the same, whenever it was made"


@needs_fsspec
def test_a_file_that_is_replaced_at_its_address_is_noticed() -> None:
    data = np.random.default_rng(0).bytes(BLOCK)
    seen = identify(address := put("file", data))
    assert check_unchanged(address, seen) == seen
    put("file", data)
    assert check_unchanged(address, seen).fingerprint == seen.fingerprint
    put("file", data[::-1])
    with pytest.raises(ChangedError):
        check_unchanged(address, seen)


@needs_fsspec
def test_what_is_no_video_has_the_same_reasons(films: dict[str, Film], tmp_path: Path) -> None:
    film = films["h264.mp4"].path.read_bytes()
    contents = {
        "text.mp4": b"no video\n" * 100,
        "empty.mp4": b"",
        "cut.mp4": film[: len(film) // 2],
        "cut.mkv": films["h264.mkv"].path.read_bytes()[:3000],
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        reasons = []
        for place in (str(tmp_path / name), put(name, data)):
            try:
                reasons.append(probe(place).damage)
            except DecodeError as error:
                reasons.append(error.reason)
        assert reasons[0] == reasons[1], name
    with pytest.raises(DecodeError, match=r"^memory://none.mp4: does not exist in this process"):
        probe("memory://none.mp4")


@needs_fsspec
def test_what_is_read_leads_nowhere_else(films: dict[str, Film]) -> None:
    film = films["h264.ts"].path
    lists = {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:4,\nfile://{film}\n#EXT-X-ENDLIST\n",
        "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:4,\n{film}\n#EXT-X-ENDLIST\n",
        "list.ffconcat": f"ffconcat version 1.0\nfile {film}\n",
    }
    for name, text in lists.items():
        with pytest.raises(DecodeError, match=r"is not a video|is a playlist"):
            probe(put(name, text.encode()))


@needs_fsspec
def test_decord_is_for_files(films: dict[str, Film]) -> None:
    info = probe(put("a.mp4", films["h264.mp4"].path.read_bytes()))
    assert choose_decoder(info) == ("pyav", "Decord reads local files only")
    with pytest.raises(DecodeError, match="Decord cannot read it: it reads local files only"):
        open_reader(info, decoder="decord")


@needs_fsspec
def test_a_page_with_a_frame_does_not_show_the_signature_of_its_address(served: FileServer) -> None:
    image = FrameImages().read(f"{served.url}/start.mp4?signature=5f", 1.0)
    assert f'alt="{served.url}/start.mp4"' in image
    assert "signature" not in image


# Ranges


@needs_fsspec
@pytest.mark.parametrize("name", ["end.mp4", "start.mp4"])
def test_a_frame_costs_its_neighbours_not_the_file(heavy: Path, served: FileServer, name: str) -> None:
    size = (heavy / name).stat().st_size
    assert read_numbers(read_frames(f"{served.url}/{name}", indices=[60]).pixels) == [60]
    assert served.num_bytes < 4 * BLOCK < 0.75 * size
    assert len(served.sent) <= 6
    before = served.num_bytes
    assert read_numbers(read_frames(f"{served.url}/{name}", indices=[65]).pixels) == [65]
    assert served.num_bytes - before <= ranges.BLOCK, "what was read lately is kept"


@needs_fsspec
def test_reading_through_takes_few_requests_and_each_byte_once(heavy: Path, served: FileServer) -> None:
    file = ranges.RemoteFile(f"{served.url}/end.mp4")
    assert file.read(10) + file.readall() == (heavy / "end.mp4").read_bytes()
    assert served.num_bytes == file.num_bytes
    assert len(served.sent) <= 8
    assert file.read(1) == b""
    file.seek(-3, 2)
    assert (file.tell(), len(file.read())) == (file.num_bytes - 3, 3)


@needs_fsspec
def test_a_server_without_ranges_is_read_whole_up_to_a_size(
    heavy: Path, served: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.ranges = False
    assert read_numbers(read_frames(f"{served.url}/end.mp4", indices=[60]).pixels) == [60]
    store, _ = open_store(served.url)
    with monkeypatch.context() as patch:  # it says so beforehand
        info = store.info
        patch.setattr(store, "info", lambda path: info(path) | {"partial": False})
        num_sent = len(served.sent)
        assert ranges.RemoteFile(f"{served.url}/end.mp4").num_bytes == (heavy / "end.mp4").stat().st_size
        assert len(served.sent) == num_sent, "it is kept"
    monkeypatch.setattr(ranges, "MAX_WHOLE_BYTES", 1 << 20)
    with pytest.raises(DecodeError, match="its server supports no ranges, and it is larger than 1 MiB"):
        read_frames(f"{served.url}/start.mp4", indices=[140])


# What goes wrong


@needs_fsspec
@pytest.mark.parametrize("name", ["end.mp4", "start.mp4"])
def test_a_server_that_breaks_is_no_damage_of_the_file(served: FileServer, name: str) -> None:
    info = probe(f"{served.url}/{name}?signature=5f")
    served.most_bytes = served.num_bytes + ranges.BLOCK
    with open_reader(info) as reader, pytest.raises(UnreachableError) as caught:
        reader.read(range(160))
    assert str(caught.value).startswith(f"{served.url}/{name}: its store cannot be reached: ")
    assert "5f" not in str(caught.value)
    served.most_bytes = 0
    with pytest.raises(UnreachableError, match="cannot be reached"):
        probe(f"{served.url}/{name}?other")


@needs_fsspec
@pytest.mark.parametrize(
    ("statuses", "reason"),
    [
        ([404] * 9, "does not exist"),
        ([410] * 9, "does not exist"),
        ([403] * 9, "its store refuses: permission denied"),
        ([400] * 9, "its store answers with status 400"),
        ([500] * 9, "its store answers with status 500"),
    ],
)
def test_only_what_is_said_to_be_gone_is_gone(served: FileServer, statuses: list[int], reason: str) -> None:
    served.statuses = statuses
    with pytest.raises(DecodeError) as caught:
        stat_url(f"{served.url}/end.mp4")
    assert caught.value.reason == reason
    assert isinstance(caught.value, UnreachableError) == (reason != "does not exist")
    served.statuses = [503, 503]  # a busy server is asked again
    assert stat_url(f"{served.url}/end.mp4").st_size > 0


@needs_fsspec
def test_a_silent_server_does_not_hang(served: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "ANSWER_TIMEOUT_S", 0.3)
    served.silent = threading.Event()
    paths = [f"{served.url}/{index}.mp4" for index in range(200)]
    looks = dict(stat_files(paths))
    assert {str(look).rpartition(": ")[2] for look in looks.values()} == {"no answer from its store for 0.3 s"}
    assert list(looks) == paths


def test_without_fsspec_an_address_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    for place in (lambda: scan(["s3://bucket/films"]), lambda: probe("https://host/a.mp4")):
        with pytest.raises(MissingExtraError, match=r'^reading (s3|https):// needs the extra "remote": pip install'):
            place()
    monkeypatch.undo()


@needs_fsspec
def test_a_store_that_needs_another_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(VidretError, match=r"^s3://b/a.mp4: s3:// needs a package that is not installed: Install s3fs"):
        scan(["s3://b/a.mp4"])
    with pytest.raises(VidretError, match=r"^foo://b/a.mp4: fsspec knows no foo://$"):
        scan(["foo://b/a.mp4?secret"])
    with pytest.raises(VidretError, match=r"^zip://a.mp4::/b.zip: zip:// cannot be opened: "):
        scan(["zip://a.mp4::/b.zip"])


def test_no_password_is_taken() -> None:
    for address in ("https://me:secret@host/a.mp4?x", "s3://key:secret@bucket/a.mp4"):
        with pytest.raises(VidretError, match=r"^[a-z0-9]+://\w+/a.mp4: a URL must not contain a password") as caught:
            scan([address])
        assert "secret" not in str(caught.value)
    check_url("sftp://me@host/a.mp4")
    check_url("https://host/a:b@c.mp4")


def test_a_manifest_may_name_addresses_but_lies_here(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("path\ns3://a//b.mp4\nb.mp4\nfile:///c.mp4\ns3://a//b.mp4\n")
    assert scan([manifest.as_uri()]) == ["s3://a//b.mp4", str(tmp_path / "b.mp4"), "/c.mp4"]
    manifest.write_text("path\nhttps://me:secret@host/b.mp4\n")
    with pytest.raises(VidretError, match="must not contain a password"):
        scan([str(manifest)])
    with pytest.raises(VidretError, match=r"^s3://b/m.jsonl: a manifest must be a local file, got a URL$"):
        scan(["s3://b/m.jsonl?sig=5f"])


# Looking and listing


def test_times_are_read_as_stores_write_them() -> None:
    moment = 1_700_000_000
    for facts in (
        {"mtime": float(moment)},
        {"LastModified": datetime.fromtimestamp(moment, UTC)},
        {"Last-Modified": "Tue, 14 Nov 2023 22:13:20 GMT"},
        {"updated": "2023-11-14T22:13:20.000Z"},
        {"updated": "2023-11-14T22:13:20", "etag": "5f"},
        {"mtime": "soon", "created": moment},
    ):
        assert parse_stat("s3://b/a", {"size": 3, **facts}).st_mtime_ns == moment * 10**9, facts


def test_a_tag_stands_in_for_a_time() -> None:
    tagged = [parse_stat("s3://b/a", {"size": 3, "ETag": tag}).st_mtime_ns for tag in ("5f", "5f", "60")]
    assert tagged[0] == tagged[1] != tagged[2]
    assert -(1 << 63) < min(tagged) < max(tagged) < NO_TIME
    for facts in ({}, {"updated": "0001-01-01T00:00:00Z"}, {"updated": "9999-12-31T00:00:00Z"}, {"mtime": math.inf}):
        assert parse_stat("s3://b/a", {"size": None, **facts}).st_mtime_ns == NO_TIME
    with pytest.raises(DecodeError, match="is a folder"):
        parse_stat("s3://b/a", {"type": "directory"})


NAMES_STORED = ("b.mp4", "a.MKV", "._a.mp4", "notes.txt", "sub/d.webm", "sub/deep/c.mov")


@needs_fsspec
def test_folders_and_globs_of_a_store() -> None:
    for name in NAMES_STORED:
        put(f"films/{name}", b"x")
    found = [f"memory://films/{name}" for name in ("a.MKV", "b.mp4", "sub/d.webm", "sub/deep/c.mov")]
    assert scan(["memory://films"]) == scan(["memory://films/"]) == scan(["memory://films/**"]) == found
    assert scan(["memory://films/sub"]) == scan(["memory://films/s*"]) == found[2:]
    assert scan(["memory://films/*.mp4"]) == scan(["memory://films/?.mp4"]) == found[1:2]
    assert scan(["memory://"]) == found
    assert scan(["memory://films/notes.txt"]) == ["memory://films/notes.txt"], "what is named is taken"
    for nothing in ("memory://films/*.avi", "memory://other", "memory://films/none.mp4"):
        with pytest.raises(VidretError, match=r"does not exist|no file matches"):
            scan([nothing])


@needs_fsspec
def test_junk_and_what_is_excluded_is_left_out_of_a_store() -> None:
    kept, other, junk = (put(f"junk/{name}", b"x") for name in ("a.mp4", "proxies/b.mp4", "@eaDir/a.mp4/c.mp4"))
    folder = kept.removesuffix("/a.mp4")
    for path in (folder, f"{folder}/", f"{folder}/**/*.mp4"):
        listing = list_videos([path], ["proxies"])
        assert (listing.files, listing.junk) == ([kept], [f"{folder}/@eaDir"])
        assert scan([path]) == [kept, other]
    assert scan([junk]) == [junk]


@needs_fsspec
def test_folders_and_globs_of_a_web_server(tmp_path: Path) -> None:
    for name in (*NAMES_STORED, "two words.mp4"):
        (tmp_path / "films" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "films" / name).write_bytes(b"x" * 7)
    with serve_files(tmp_path) as server:
        url = f"{server.url}/films"
        names = ("a.MKV", "b.mp4", "sub/d.webm", "sub/deep/c.mov", "two%20words.mp4")
        found = [f"{url}/{name}" for name in names]
        assert scan([url]) == scan([f"{url}/"]) == found
        assert scan([f"{url}/*.mp4"]) == [found[1], found[4]]
        assert stat_url(found[4]).st_size == 7
        assert scan([f"{url}/b.mp4?v=1*"]) == [f"{url}/b.mp4?v=1*"]
        with pytest.raises(VidretError, match=r"none\.mp4: does not exist"):
            scan([f"{url}/none.mp4"])
