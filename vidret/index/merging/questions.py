"""Copy what was taught to indexes, and what they watch for, into a merged index."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vidret.store.records import CONCEPT
from vidret.store.store import Store
from vidret.store.watch_list import change_watches, read_watches


def copy_concepts(target: Store, sources: Sequence[Store]) -> tuple[int, list[str]]:
    """Copy the taught concepts that the target lacks, with the vectors of their examples.

    Returns:
        How many were copied, and a note for each that is not: another concept has its name.
    """
    num_copied, notes = 0, []
    origins: dict[str, Path] = {}
    for source in sources:
        for key in source.meta_keys(f"{CONCEPT}."):
            concept, known = source.get_meta(key), target.get_meta(key)
            if not concept or concept == known:  # one that was forgotten is stored as empty
                continue
            if known:
                name = key.removeprefix(f"{CONCEPT}.")
                rival = origins.get(key, target.path)
                notes.append(f"{source.path}: its concept @{name} is not copied: {rival} has another of that name")
                continue
            target.set_meta(key, concept)
            origins[key] = source.path
            num_copied += 1
    return num_copied, notes


def copy_watches(target: Store, sources: Sequence[Store], video_ids: Mapping[str, int]) -> tuple[int, list[str]]:
    """Copy the watches that the target lacks.

    A copied watch reports what is indexed later, and what it had not yet reported in its own index. Watches that the
    target has report copied videos at the next run, as all that are new to it.

    Args:
        target: The merged index, with the videos copied.
        sources: The indexes.
        video_ids: Ids of videos in the target, by content.

    Returns:
        How many were copied, and a note for each that is not: another watch has its name.
    """
    notes, last = list[str](), max(video_ids.values(), default=0)
    with change_watches(target.path) as watches:
        origins = {each.name: (target.path, each.query) for each in watches}
        num_known = len(watches)
        for source in sources:
            contents = {content: video_id for video_id, content in source.fingerprints().items()}
            shared = {content: video_ids[content] for content in contents.keys() & video_ids.keys()}
            for watch in read_watches(source.path):
                rival, query = origins.setdefault(watch.name, (source.path, watch.query))
                if rival == source.path:
                    watches.append(replace(watch.move(contents, shared), last_video=last))
                elif query != watch.query:
                    note = f"its watch {watch.name} is not copied: {rival} has another of that name"
                    notes.append(f"{source.path}: {note}")
    return len(watches) - num_known, notes
