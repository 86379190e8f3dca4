"""The door of this room: a benchmark's name and a folder -> one of its splits."""

from pathlib import Path

from vidret.data.benchmarks.registry import DATASETS, Names
from vidret.data.records import Split
from vidret.errors import VidretError


def read_split(name: str, folder: str | Path, split: str | None = None) -> Split:
    """Read a split of a benchmark.

    Args:
        name: One of ``DATASETS``, or one and its split: ``qvhighlights-val``, ``msrvtt-1k-a-train-9k``.
        folder: Where its files lie: themselves, or in a folder with the benchmark's name. Or the first file itself, by
            whatever name; the others must then lie beside it.
        split: The split; unless given, the one that numbers are reported on.

    Raises:
        VidretError: There is no such benchmark or split, a file is missing, or something in a file breaks its rule: the
            sentence has the file and the line or key.
    """
    name, split = _resolve(name, split)
    benchmark = DATASETS[name]
    source = benchmark.splits[split]
    folder = Path(folder)
    full_name = name if split == "all" else f"{name}-{split}"
    given = [folder] if folder.is_file() else []
    places = [folder.parent] if given else [folder, *(folder / below for below in benchmark.folders)]
    needed = [*given, *(_find(file, places) for file in source.needed[len(given) :])]
    if missing := [" or ".join(names) for names, path in zip(source.needed, needed, strict=True) if path is None]:
        searched = ", ".join(str(place) for place in places if place.is_dir()) or f"{folder}, which is no folder"
        raise VidretError(f"{full_name} needs {' and '.join(missing)}: not found in {searched}")
    found = source.read(full_name, *needed, *(_find(file, places) for file in source.extra))
    return Split(found.name, found.files, found.videos, found.captions, found.queries, (*source.notes, *found.notes))


def _resolve(name: str, split: str | None) -> tuple[str, str]:
    """Tell a benchmark and its split apart."""
    if name not in DATASETS and split is None:
        for known in DATASETS:
            if name.startswith(f"{known}-") and name.removeprefix(f"{known}-") in DATASETS[known].splits:
                return known, name.removeprefix(f"{known}-")
    if name not in DATASETS:
        raise VidretError(f"name must be one of {', '.join(DATASETS)}, perhaps with -split, got {name}")
    benchmark = DATASETS[name]
    if split is not None and split not in benchmark.splits:
        raise VidretError(f"split must be one of {', '.join(benchmark.splits)} for {name}, got {split}")
    return name, split or benchmark.default


def _find(names: Names, places: list[Path]) -> Path | None:
    """Find a file: the first of its names that is there; for one name, the first place."""
    return next((place / file for file in names for place in places if (place / file).is_file()), None)
