"""What the classifier of sounds is fitted to and measured on: which files are music, and that no package is both."""

from pathlib import Path

from tests.tool_loading import load_tool

tool = load_tool("build_sounds")
LARGE = 2 * tool.MUSIC_BYTES


def write(root: Path, name: str, size: int) -> Path:
    """Write an empty file of a size."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_folders_tell_music_from_effects(tmp_path: Path) -> None:
    jingle, song = write(tmp_path, "game/Music/jingle.ogg", 5), write(tmp_path, "game/Music/song.ogg", LARGE)
    slide, shot = write(tmp_path, "game/sounds/slide.wav", LARGE), write(tmp_path, "game/sounds/shot.ogg", 5)
    for neither in ("sounds/rain.ogg", "sounds/menu.opus"):
        write(tmp_path, f"game/{neither}", LARGE)
    write(tmp_path, "game/sounds/voices/hello.ogg", 5)
    assert tool.find_music(tmp_path, "game") == [jingle, song]
    assert tool.find_effects(tmp_path, "game") == [shot, slide]


def test_where_no_folder_tells_large_compressed_files_are_music(tmp_path: Path) -> None:
    song, shot = write(tmp_path, "game/song.ogg", LARGE), write(tmp_path, "game/shot.ogg", 5)
    roar = write(tmp_path, "game/roar.wav", LARGE)
    assert tool.find_music(tmp_path, "game") == [song]
    assert tool.find_effects(tmp_path, "game") == [roar, shot]


def test_no_package_is_fitted_to_and_measured() -> None:
    packages = {
        split: {*tool.SPEECH[split], *tool.MUSIC[split], *tool.OTHERS[split]} for split in ("train", "choose", "test")
    }
    assert not (packages["train"] | packages["choose"] | {*tool.EFFECTS}) & packages["test"]
    assert not packages["train"] & packages["choose"]
