"""Videos by the ending of their path."""

import pytest

from vidret.errors import VidretError
from vidret.store.lookup import find_below, find_by_ending
from vidret.store.records import StoredVideo
from vidret.types import Filters


def make_video(video_id: int, *paths: str) -> StoredVideo:
    return StoredVideo(video_id, paths, 1.0, {}, complete=True, salvaged="", num_segments=1, changed=None)


VIDEOS = [
    make_video(1, "/films/2024/trip/a.mp4", "/copies/a.mp4"),
    make_video(2, "/films/2025/trip/a.mp4"),
    make_video(3, "/films/2025/ba.mp4"),
    make_video(4, "s3://bucket/c.mp4?signature=5f"),
]


@pytest.mark.parametrize(
    ("ending", "video_id"),
    [
        ("ba.mp4", 3),
        ("2025/ba.mp4", 3),
        ("c.mp4", 4),
        ("copies/a.mp4", 1),
        ("2024/trip/a.mp4", 1),
        ("mp4", None),
        ("/trip/a.mp4", None),
        ("d.mp4", None),
        ("", None),
    ],
)
def test_whole_parts_of_a_path_name_its_video(ending: str, video_id: int | None) -> None:
    found = find_by_ending(VIDEOS, ending)
    assert (found.id if found else None) == video_id


def test_an_ending_of_several_videos_is_refused_with_their_paths() -> None:
    with pytest.raises(VidretError, match=r"^trip/a.mp4: must be the end of one video's path, got 2: /films/2024"):
        find_by_ending(VIDEOS, "trip/a.mp4")
    assert find_by_ending(VIDEOS[:1], "a.mp4") == VIDEOS[0]  # two copies of one video


APART, WHOLE = "e\N{COMBINING ACUTE ACCENT}t", "\N{LATIN SMALL LETTER E WITH ACUTE}t"


@pytest.mark.parametrize("typed", [f"{WHOLE}.mp4", f"{WHOLE}s/{WHOLE}.mp4", f"/films/{WHOLE}s/{WHOLE}.mp4"])
def test_names_are_found_in_another_unicode_form(typed: str) -> None:
    videos = [*VIDEOS, make_video(5, f"/films/{APART}s/{APART}.mp4")]
    found = find_by_ending(videos, typed)
    assert found is not None
    assert found.id == 5
    exact = make_video(6, f"/films/{WHOLE}s/{WHOLE}.mp4")
    assert find_by_ending([*videos, exact], typed) == exact


def test_folders_are_found_in_another_unicode_form() -> None:
    video = make_video(5, f"/films/{APART}s/a.mp4")

    def list_videos(filters: Filters) -> list[StoredVideo]:
        return [] if filters.folder else [*VIDEOS, video]

    assert find_below(list_videos, f"/films/{WHOLE}s") == [video]
    with pytest.raises(VidretError, match="not in the index"):
        find_below(list_videos, f"/films/{WHOLE}")
