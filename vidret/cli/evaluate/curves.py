"""The command ``vidret eval curves``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vidret.cli.evaluate.benchmarks import (
    DATA,
    AnnotationsOption,
    DataOption,
    EvalIndexOption,
    EvalModelOption,
    EvalRerankOption,
    OutOption,
    VideosOption,
    group,
)
from vidret.cli.evaluate.scores import read_data
from vidret.cli.evaluate.steps import default_out, fill_index, find_annotations, open_index
from vidret.cli.options import ADVANCED, DeviceOption, JsonOption, PrecisionOption, WorkersOption
from vidret.present.progress import show_count
from vidret.present.show import show_table

SizesOption = Annotated[
    list[int] | None,
    typer.Option(
        "--size",
        metavar="N",
        min=2,
        help="Number of videos in the gallery; repeat it for several. Default: round numbers, and all videos.",
        rich_help_panel=DATA,
    ),
]
DrawsOption = Annotated[
    int, typer.Option(metavar="N", min=1, help="Random galleries of each size.", rich_help_panel=ADVANCED)
]


@group.command("curves")
def curves_command(
    videos: VideosOption,
    data: DataOption = "captions",
    annotations: AnnotationsOption = None,
    sizes: SizesOption = None,
    model: EvalModelOption = None,
    rerank: EvalRerankOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    out: OutOption = None,
    index: EvalIndexOption = None,
    workers: WorkersOption = None,
    draws: DrawsOption = 200,
    as_json: JsonOption = False,
) -> None:
    """Measure recall in random galleries by size, to compare results on galleries of different sizes."""
    import numpy as np

    from vidret.channels.picture.reranking import TOTAL
    from vidret.evaluate.retrieval import choose_captions, score_texts
    from vidret.metrics.gallery_sizes import choose_sizes, measure_by_size

    split = read_data(data, find_annotations(data, annotations, videos))
    engine = open_index(index or (out or default_out(data, model)) / "index", model, device, precision, rerank=rerank)
    gallery, _ = fill_index(engine, split, videos, workers)
    video_ids, captions = choose_captions(split, gallery)
    paths = [Path(gallery.files[video_id]) for video_id in video_ids]
    with show_count("scoring", "segments") as on_count:
        scores = score_texts(engine, [caption.text for caption in captions], paths, rerank, on_count)[TOTAL]
    columns = {video_id: column for column, video_id in enumerate(video_ids)}
    truth = np.array([columns[caption.video] for caption in captions])
    found = measure_by_size(scores, truth, sizes or choose_sizes(len(video_ids)), num_draws=draws)
    if as_json:
        print(json.dumps([each.to_dict() for each in found], indent=2))
        return
    cuts = list(dict.fromkeys(each.k for each in found))
    by_size = {(each.size, each.k): f"{each.mean:.1f} ({each.low:.1f} to {each.high:.1f})" for each in found}
    rows = [(str(size), *(by_size[size, k] for k in cuts)) for size in dict.fromkeys(each.size for each in found)]
    show_table(("videos", *(f"R@{k} (95 % of galleries)" for k in cuts)), rows)
