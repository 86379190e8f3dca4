"""The commands ``vidret eval rate`` and ``vidret eval curves``: encoders by one protocol, and recall by gallery."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vidret.cli.evaluate.benchmarks import group
from vidret.cli.evaluate.steps import DATA, OWN, AnnotationsOption, EvalRerankOption, EvalRun, default_out
from vidret.cli.options import (
    ADVANCED,
    MODEL,
    OUTPUT,
    JsonOption,
    Loading,
    WorkersOption,
    argument,
    option,
    with_fields,
)
from vidret.present.progress import show_count
from vidret.present.show import print_json, show_table
from vidret.present.terminal import print_message

if TYPE_CHECKING:
    from vidret.data.records import Split

HEADERS = ("model", "frames", "side", "R@1", "R@5", "R@10", "mean rank", "v2t R@1", "R@5", "R@10", "mean rank")
COSTS = ("ms a frame", "ms a query", "MB an hour")
CAPTIONS = "captions"


@group.command("rate")
@with_fields()
def rate_command(
    *,
    models: list[str] = argument("Encoders, as for vidret index --model.", "MODEL", show_default=False),
    data: str = option(
        "Benchmark, such as msrvtt-1k-a, or a folder with captions.jsonl and the videos.", DATA, "NAME|FOLDER"
    ),
    videos: Path | None = option("Folder of the videos of a benchmark.", DATA, "DIR", default=None),
    annotations: AnnotationsOption = None,
    seed: int = option("Seed of the bootstrap.", MODEL, "N", default=0, min=0),
    loading: Loading,
    out: Path | None = option(
        "Folder for rating.json, and the report and index of each model; default: eval/rate-DATA.",
        OUTPUT,
        "DIR",
        default=None,
    ),
    as_json: JsonOption = False,
    workers: WorkersOption = None,
) -> None:
    """Rate encoders by one protocol: recall both ways, speed, size, and paired intervals of their differences."""
    from vidret.evaluate.comparing import PROTOCOL, compare_models

    folder = Path(data)
    if folder.is_dir():
        data, videos, annotations = CAPTIONS, videos or folder, annotations or folder
    if videos is None:
        raise typer.BadParameter("must be given for a benchmark, got none", param_hint="--videos")
    target = out or Path("eval") / f"rate-{folder.absolute().name if data in OWN else data}"
    chosen: dict[str, Any] = {"device": loading.device, "precision": loading.precision, "workers": workers}
    run = EvalRun(videos=videos, data=data, annotations=annotations, **chosen)
    split = run.read_split()
    rated, reports = zip(
        *(
            rate_model(replace(run, model=name, out=target / default_out("model", name).name), split)
            for name in dict.fromkeys(models)
        ),
        strict=True,
    )
    compared = compare_models(
        [(model["name"], report) for model, report in zip(rated, reports, strict=True)], seed=seed
    )
    facts = {"protocol": PROTOCOL, "data": reports[0]["data"], "models": rated, "comparisons": compared}
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    (target / "rating.json").write_text(text + "\n", "utf-8")
    if as_json:
        print(text)
    else:
        show_rating(rated, compared)
        print_message(PROTOCOL)
        print_message(f"written to {target}: rating.json, and report.json of each model")


def rate_model(run: EvalRun, split: "Split") -> tuple[dict[str, Any], dict[str, Any]]:
    """Index the videos of a split with an encoder; return its rating and the report of its retrieval."""
    from vidret.channels.picture.ranking import MEAN
    from vidret.encode.encoder import measure_speed
    from vidret.evaluate.comparing import rate_encoder
    from vidret.evaluate.gallery import Evaluation
    from vidret.evaluate.retrieval import evaluate_retrieval

    with run.open_index(split, whole=True, rerank=MEAN) as engine:
        gallery, _ = run.fill_index(engine, split)
        with show_count("scoring", "segments") as on_count:
            report = evaluate_retrieval(Evaluation(engine, split, gallery, on_count), rerank=MEAN)
        report.save(run.target / "report.json")
        facts = report.to_dict()
        return rate_encoder(engine.encoder, measure_speed(engine.encoder), facts), facts


def show_rating(rated: Sequence[dict[str, Any]], compared: list[dict[str, Any]]) -> None:
    """Print the table of models, and the differences in recall between them."""
    rows = []
    for model in rated:
        results = [model["results"][direction] for direction in ("t2v", "v2t")]
        cells = [f"{row[name]:.1f}" for row in results for name in ("R@1", "R@5", "R@10", "MnR")]
        speed = [f"{model[name]:.1f}" for name in ("frame_ms", "query_ms", "mb_per_hour")]
        rows.append((model["name"], str(model["frames"]), str(model["side"]), *cells, *speed))
    show_table((*HEADERS, *COSTS), rows)
    for row in compared:
        first, second = row["models"]
        verdict = {"first": first, "second": second}.get(row["better"])
        said = f"{verdict} is better" if verdict else "may be chance"
        print(
            f"R@1 of {first} minus {second}: {row['difference']:+.1f} "
            f"(95 %: {row['low']:+.1f} to {row['high']:+.1f}), {said}"
        )


@group.command("curves")
@with_fields()
def curves_command(
    run: EvalRun,
    sizes: list[int] | None = option(
        "Number of videos in the gallery; repeat it for several. Default: round numbers, and all videos.",
        DATA,
        "N",
        default=None,
        flag="--size",
        min=2,
    ),
    rerank: EvalRerankOption = "auto",
    draws: int = option("Random galleries of each size.", ADVANCED, "N", default=200, min=1),
    as_json: JsonOption = False,
) -> None:
    """Print recall in random galleries by size, to compare results on galleries of different sizes."""
    import numpy as np

    from vidret.channels.picture.reranking import TOTAL
    from vidret.evaluate.retrieval import check_memory, choose_captions, score_texts
    from vidret.metrics.retrieval import choose_sizes, measure_by_size

    run, split = run.named("retrieval"), run.read_split()  # whose index serves both
    engine = run.open_index(split, whole=run.data not in OWN, rerank=rerank)
    gallery, _ = run.fill_index(engine, split)
    video_ids, captions = choose_captions(split, gallery)
    paths = [Path(gallery.files[video_id]) for video_id in video_ids]
    check_memory(engine.choose_ranker(rerank), len(captions), len(paths))
    with show_count("scoring", "segments") as on_count:
        scores = score_texts(engine, [caption.text for caption in captions], paths, rerank, on_count)[TOTAL]
    columns = {video_id: column for column, video_id in enumerate(video_ids)}
    truth = np.array([columns[caption.video] for caption in captions])
    recalls = measure_by_size(scores, truth, sizes or choose_sizes(len(video_ids)), num_draws=draws)
    if as_json:
        print_json(recalls)
        return
    cuts = list(dict.fromkeys(recall.k for recall in recalls))
    by_size = {
        (recall.size, recall.k): f"{recall.mean:.1f} ({recall.low:.1f} to {recall.high:.1f})" for recall in recalls
    }
    rows = [(str(size), *(by_size[size, k] for k in cuts)) for size in dict.fromkeys(recall.size for recall in recalls)]
    show_table(("videos", *(f"R@{k} (95 % of galleries)" for k in cuts)), rows)
