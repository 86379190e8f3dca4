"""Every benchmark at small size: annotations in its own formats, and one film for each of their videos."""

import json
from pathlib import Path
from typing import Any

from tests.fakes import write_film

SECONDS = 6
TRAIN, VAL, TEST = ([f"film{index}.mp4" for index in numbers] for numbers in (range(6), range(6, 8), range(8, 11)))
COLOURS = ("red", "blue", "green", "white", "yellow", "black")
DOMAINS = {"youtube": "dog", "tvsum": "BK"}


def write_benchmarks(folder: Path) -> Path:
    """Write the films to videos/ and the annotations of all benchmarks; return the folder."""
    for index, name in enumerate((*TRAIN, *VAL, *TEST)):
        first, second = COLOURS[index % 6], COLOURS[(index // 6 + index + 1) % 6]
        write_film(folder / "videos" / name, (first, SECONDS / 2), (second, SECONDS / 2), salt=index)
    for write in (write_msrvtt, write_captions, write_paragraphs, write_windows, write_ego4d, write_highlights):
        write(folder)
    return folder


def describe(name: str) -> list[str]:
    """Return two captions of a video."""
    return [f"{name.removesuffix('.mp4')} turns from one colour to another. It ends.", f"a {name} of plain colours"]


def save(path: Path, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def list_stems(names: list[str]) -> list[str]:
    return [name.removesuffix(".mp4") for name in names]


def write_msrvtt(folder: Path) -> None:
    rows = [f"ret{index},msr{index},{stem},{describe(stem)[0]}" for index, stem in enumerate(list_stems(TEST))]
    save(folder / "msrvtt/MSRVTT_JSFUSION_test.csv", "\n".join(["key,vid_key,video_id,sentence", *rows]) + "\n")
    for size in ("7k", "9k"):
        save(folder / f"msrvtt/MSRVTT_train.{size}.csv", "\n".join(["video_id", *list_stems(TRAIN)]) + "\n")
    sentences = [{"video_id": stem, "caption": text} for stem in list_stems(TRAIN) for text in describe(stem)]
    save(folder / "msrvtt/MSRVTT_data.json", {"sentences": sentences, "videos": []})


def write_captions(folder: Path) -> None:
    """Write MSVD, LSMDC and VATEX."""
    splits = {"train": TRAIN, "val": VAL, "test": TEST}
    everything = [stem for names in splits.values() for stem in list_stems(names)]
    save(folder / "msvd/captions_msvd.json", {stem: describe(stem) for stem in everything})
    files = {"training": TRAIN, "val": VAL}
    for split, names in splits.items():
        save(folder / f"msvd/{split}_list.txt", "\n".join(list_stems(names)) + "\n")
    for name, names in (
        *((f"LSMDC16_annos_{split}.csv", names) for split, names in files.items()),
        ("LSMDC16_challenge_1000_publictect.csv", TEST),
    ):
        lines = ["\t".join((stem, "0", "6", "0", "6", describe(stem)[0])) for stem in list_stems(names)]
        save(folder / "lsmdc" / name, "\n".join(lines) + "\n")
    for name, names in (("training", TRAIN), ("validation", [*VAL, *TEST])):
        rows = [{"videoID": stem, "enCap": describe(stem)} for stem in list_stems(names)]
        save(folder / f"vatex/vatex_{name}_v1.0.json", rows)
    for split in ("val", "test"):
        save(folder / f"vatex/{split}_list.txt", "\n".join(list_stems(splits[split])) + "\n")


def write_paragraphs(folder: Path) -> None:
    """Write DiDeMo and ActivityNet; the latter has the moments of its sentences too."""
    for split, names in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        rows = [(name, text) for name in names for text in describe(name)]
        content = [
            {"annotation_id": index, "video": name, "description": text, "times": [[0, 1]], "num_segments": 2}
            for index, (name, text) in enumerate(rows)
        ]
        save(folder / f"didemo/{split}_data.json", content)
        save(folder / f"didemo/{split}_list.txt", "\n".join(names) + "\n")
    for split, names in (("train", TRAIN), ("val_1", TEST)):
        content_of = {
            stem: {"duration": SECONDS, "timestamps": [[0, 3], [3, 6]], "sentences": describe(stem)}
            for stem in list_stems(names)
        }
        save(folder / f"activitynet/{split}.json", content_of)


def write_windows(folder: Path) -> None:
    """Write QVHighlights, Charades-STA and TACoS."""
    for split, names in (("train", TRAIN), ("val", TEST)):
        rows = [
            {
                "qid": index,
                "query": describe(stem)[0],
                "vid": stem,
                "duration": SECONDS,
                "relevant_windows": [[0, 4]],
                "relevant_clip_ids": [0, 1],
                "saliency_scores": [[4, 3, 2], [3, 4, 4]],
            }
            for index, stem in enumerate(list_stems(names))
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        save(folder / f"qvhighlights/highlight_{split}_release.jsonl", lines)
    for split, names in (("train", TRAIN), ("test", TEST)):
        stems = list_stems(names)
        lines = "".join(f"{stem} 0.5 3.0##{describe(stem)[1]}\n" for stem in stems)
        save(folder / f"charades_sta/charades_sta_{split}.txt", lines)
        lengths = ["id,length", *(f"{stem},{SECONDS}" for stem in stems)]
        save(folder / f"charades_sta/Charades_v1_{split}.csv", "\n".join(lengths) + "\n")
        tacos = {
            f"{stem}.avi": {
                "timestamps": [[0, 15], [15, 30]],
                "sentences": describe(stem),
                "fps": 5.0,
                "num_frames": 5 * SECONDS,
            }
            for stem in stems
        }
        save(folder / f"tacos/{split}.json", tacos)


def write_ego4d(folder: Path) -> None:
    for split, names in (("train", TRAIN), ("val", TEST)):
        clips = [
            {
                "clip_uid": stem,
                "video_start_sec": 0.0,
                "video_end_sec": float(SECONDS),
                "annotations": [
                    {
                        "annotation_uid": "one",
                        "language_queries": [{"query": describe(stem)[0], "clip_start_sec": 0.0, "clip_end_sec": 4.0}],
                    }
                ],
            }
            for stem in list_stems(names)
        ]
        save(folder / f"ego4d_nlq/nlq_{split}.json", {"videos": [{"video_uid": "all", "clips": clips}]})


def write_highlights(folder: Path) -> None:
    """Write YouTube Highlights and TVSum, each with one domain."""
    for split, names in (("train", TRAIN), ("val", TEST)):
        stems = list_stems(names)
        youtube = [
            {"qid": stem, "query": "dog", "vid": stem, "duration": SECONDS, "domain": "dog", "fps": 5.0}
            | {"clip": [[0, 10], [10, 20], [20, 30]], "label": [[0], [1], [1]]}
            for stem in stems
        ]
        ratings = [[1.0] * 20, [3.0] * 20, [5.0] * 20]
        tvsum = [
            {"qid": stem, "query": describe(stem)[1], "vid": stem, "duration": 3, "domain": "BK", "label": ratings}
            for stem in stems
        ]
        for name, rows in (("youtube_highlights/youtube_highlight", youtube), ("tvsum/tvsum", tvsum)):
            save(folder / f"{name}_{split}_release.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
