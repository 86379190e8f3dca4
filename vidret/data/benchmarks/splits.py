"""Loading one split of a benchmark by name."""

from dataclasses import replace
from pathlib import Path

from vidret.data.benchmarks.registry import DATASETS, Names
from vidret.data.records import Split
from vidret.errors import VidretError


def read_split(name: str, folder: str | Path, split: str | None = None) -> Split:
    """Read a split of a benchmark.

    Args:
        name: One of ``DATASETS``, optionally followed by its split: ``qvhighlights-val``, ``msrvtt-1k-a-train-9k``.
        folder: Folder with the annotation files, either directly or in a subfolder with the benchmark's name. Or the
            path of the first file, under any name; the other files must then be in the same folder.
        split: Name of the split; defaults to the one that results are reported on.

    Raises:
        VidretError: The benchmark or the split does not exist, a file is missing, or its content is invalid. The
            message then gives the file and the line or key.
    """
    name, split = resolve_split(name, split)
    benchmark = DATASETS[name]
    source = benchmark.splits[split]
    folder = Path(folder)
    full_name = name if split == "all" else f"{name}-{split}"
    given = [folder] if folder.is_file() else []
    folders = [folder.parent] if given else [folder, *(folder / subfolder for subfolder in benchmark.folders)]
    needed = [*given, *(_find_file(names, folders) for names in source.needed[len(given) :])]
    if missing := [" or ".join(names) for names, path in zip(source.needed, needed, strict=True) if path is None]:
        searched = ", ".join(str(path) for path in folders if path.is_dir()) or f"{folder}, which is not a folder"
        raise VidretError(f"{full_name} needs {' and '.join(missing)}: not found in {searched}")
    loaded = source.read(full_name, *needed, *(_find_file(names, folders) for names in source.extra))
    return replace(loaded, notes=(*source.notes, *loaded.notes), scoring=benchmark.scoring)


def resolve_split(name: str, split: str | None = None) -> tuple[str, str]:
    """Return the benchmark and the split that a name stands for.

    Raises:
        VidretError: There is no such benchmark, or it has no such split.
    """
    if name not in DATASETS and split is None:
        for known in DATASETS:
            if name.startswith(f"{known}-") and name.removeprefix(f"{known}-") in DATASETS[known].splits:
                return known, name.removeprefix(f"{known}-")
    if name not in DATASETS:
        raise VidretError(f"name must be one of {', '.join(DATASETS)}, optionally followed by -SPLIT, got {name}")
    benchmark = DATASETS[name]
    if split is not None and split not in benchmark.splits:
        raise VidretError(f"split must be one of {', '.join(benchmark.splits)} for {name}, got {split}")
    return name, split or benchmark.default


def _find_file(names: Names, folders: list[Path]) -> Path | None:
    """Return the first path that exists: names are tried in order, and for each name the folders in order."""
    return next((folder / name for name in names for folder in folders if (folder / name).is_file()), None)
