"""The commands ``vidret eval ...``: measure a model on a benchmark or on your own videos."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vidret.cli.app import app
from vidret.cli.evaluate.scores import compare_command, read_data, score_command
from vidret.cli.evaluate.steps import (
    OWN,
    QUERIES,
    EvalWordsOption,
    answer_queries,
    default_out,
    describe_segments,
    fill_bank,
    fill_index,
    find_annotations,
    finish,
    open_index,
    read_calibration,
)
from vidret.cli.language_model import FOLDER as JUDGED
from vidret.cli.language_model import (
    JudgeByOption,
    JudgeOption,
    JudgePermutationsOption,
    JudgeSettings,
    JudgeTopOption,
    LlmModelOption,
    LlmTimeoutOption,
)
from vidret.cli.opening import choose_model
from vidret.cli.options import (
    ADVANCED,
    MODEL,
    OUTPUT,
    DeviceOption,
    HeadOption,
    PrecisionOption,
    WorkersOption,
    argument,
    option,
)
from vidret.cli.registry import CommandApp, CommandGroup
from vidret.errors import VidretError
from vidret.present.progress import show_count

group = CommandApp(cls=CommandGroup, help="Evaluate models on benchmarks or on your own videos, and compare reports.")
app.add_typer(group, name="eval")

DATA = "Data"
DataOption = Annotated[
    str,
    option(
        "Benchmark, with its split if that is not the usual one: msrvtt-1k-a, qvhighlights-val, charades-sta; "
        "captions or moments for your own .jsonl. An unknown name lists all of them.",
        DATA,
        "NAME",
    ),
]
AnnotationsOption = Annotated[
    Path | None,
    option(
        "Folder of the annotation files, or the first of them. Default: for benchmarks the folder that the "
        "environment variable VIDRET_DATA names, otherwise the folder of the videos.",
        DATA,
        "PATH",
    ),
]
VideosOption = Annotated[Path, option("Folder of the videos; subfolders are searched.", DATA, "DIR")]
OutOption = Annotated[
    Path | None, option("Folder for report.json, predictions and the index; default: eval/DATA-MODEL.", OUTPUT, "DIR")
]
EvalIndexOption = Annotated[Path | None, option("Index to use or create; default: OUT/index.", ADVANCED, "DIR")]
EvalModelOption = Annotated[
    str | None, option("Encoder of a new index, as for vidret index; default: starter.", MODEL, "NAME|FILE")
]
HtmlOption = Annotated[
    bool, option("Also write report.html, with curves and the worst queries.", OUTPUT, flag="--html")
]
EvalRerankOption = Annotated[
    str,
    option(
        "Score: mean (over all frames), none (the best frames), ucofia, glscl, the file of an aligner, or auto.",
        MODEL,
        "NAME|FILE",
    ),
]
SegmentsOption = Annotated[
    str,
    option(
        "whole: each video is one segment, as in papers; cut: as in vidret index; auto: as in the index, and "
        "for a new one whole for benchmarks and cut for your own videos.",
        MODEL,
        "auto|whole|cut",
    ),
]
# OpenAI's weights were trained with QuickGELU: under the plain name open_clip uses another activation, and is worse.
ZERO_SHOT = "ViT-B-32-quickgelu/openai"


@group.command("retrieval")
def retrieval_command(
    videos: VideosOption,
    data: DataOption = "captions",
    annotations: AnnotationsOption = None,
    model: EvalModelOption = None,
    rerank: EvalRerankOption = "auto",
    calibrate: Annotated[
        str | None,
        option(
            "Bank of queries (text or .jsonl), or a split such as train-9k; adds SK-norm and QB-norm of text to video.",
            MODEL,
            "FILE|SPLIT",
        ),
    ] = None,
    video_bank: Annotated[
        Path | None,
        option(
            "Folder of other videos, such as those of the training split; adds SK-norm and QB-norm of video to text.",
            MODEL,
            "DIR",
        ),
    ] = None,
    segments: SegmentsOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    out: OutOption = None,
    html: HtmlOption = False,
    index: EvalIndexOption = None,
    workers: WorkersOption = None,
) -> None:
    """Evaluate retrieval: text to video, and video to text."""
    from vidret.evaluate.retrieval import evaluate_retrieval

    source = find_annotations(data, annotations, videos)
    split = read_data(data, source)
    bank = read_calibration(calibrate, data, source) if calibrate is not None else None
    target = out or default_out(data, model)
    whole = segments == "whole" or (segments == "auto" and data not in OWN)
    engine = open_index(index or target / "index", model, device, precision, whole=whole, rerank=rerank)
    if segments != "auto" and engine.encoder.sampling.whole != (segments == "whole"):
        raise VidretError(
            f"{engine.path}: segments must be {segments}, got an index of {describe_segments(engine)}; "
            "choose another --index"
        )
    gallery, indexing_s = fill_index(engine, split, videos, workers)
    banks: dict[str, Any] = {"bank": bank}
    if video_bank is not None:
        banks["video_bank"], seconds = fill_bank(engine, video_bank, workers)
        indexing_s += seconds
    with show_count("scoring", "segments") as on_count:
        report = evaluate_retrieval(engine, split, gallery, rerank=rerank, **banks, on_progress=on_count)
    finish(report, target, indexing_s, html=html)


@group.command("msrvtt")
def msrvtt_command(
    videos: VideosOption,
    annotations: AnnotationsOption = None,
    model: Annotated[
        str | None, option(f"Encoder, as for vidret index; default: {ZERO_SHOT}.", MODEL, "NAME|FILE")
    ] = None,
    rerank: Annotated[
        str | None,
        option(
            "Score: mean (over all frames), none (the best frames), ucofia, glscl, or the file of an aligner. "
            "Default: the trained aligner in or beside the model file, or mean if there is none.",
            MODEL,
            "NAME|FILE",
        ),
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    out: OutOption = None,
    html: HtmlOption = False,
) -> None:
    """Evaluate retrieval on MSR-VTT 1k-A, the split that most papers report."""
    from vidret.channels.picture.ranking import MEAN, find_aligner

    model = choose_model(model) or ZERO_SHOT
    retrieval_command(
        videos=videos,
        data="msrvtt-1k-a",
        annotations=annotations,
        model=model,
        rerank=rerank or str(find_aligner(model) or MEAN),
        out=out,
        html=html,
        device=device,
        precision=precision,
    )


@group.command("moments")
def moments_command(
    videos: VideosOption,
    data: DataOption = "moments",
    annotations: AnnotationsOption = None,
    corpus: Annotated[bool, option("Also locate every query among all videos (VCMR).", DATA, flag="--corpus")] = False,
    model: EvalModelOption = None,
    head: HeadOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    out: OutOption = None,
    html: HtmlOption = False,
    index: EvalIndexOption = None,
    workers: WorkersOption = None,
) -> None:
    """Evaluate moment retrieval: locate each query in its own video."""
    from vidret.evaluate.moments import evaluate_moments

    split = read_data(data, find_annotations(data, annotations, videos))
    target = out or default_out(data, model)
    engine = open_index(index or target / "index", model, device, precision, head=head)
    gallery, indexing_s = fill_index(engine, split, videos, workers)
    with show_count("locating", "queries") as on_count:
        report, predictions = evaluate_moments(engine, split, gallery, corpus=corpus, on_progress=on_count)
    finish(report, target, indexing_s, predictions, html=html)


@group.command("highlights")
def highlights_command(
    videos: VideosOption,
    data: DataOption = "qvhighlights-val",
    annotations: AnnotationsOption = None,
    model: EvalModelOption = None,
    head: HeadOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    out: OutOption = None,
    html: HtmlOption = False,
    index: EvalIndexOption = None,
    workers: WorkersOption = None,
) -> None:
    """Evaluate highlight detection: score every clip of a video against its query."""
    from vidret.evaluate.moments import evaluate_highlights

    split = read_data(data, find_annotations(data, annotations, videos))
    target = out or default_out(data, model)
    engine = open_index(index or target / "index", model, device, precision, head=head)
    gallery, indexing_s = fill_index(engine, split, videos, workers)
    with show_count("scoring", "queries") as on_count:
        report, predictions = evaluate_highlights(engine, split, gallery, on_progress=on_count)
    finish(report, target, indexing_s, predictions, html=html)


@group.command("folder")
def folder_command(
    path: Annotated[
        Path,
        argument(
            "Folder with captions.jsonl (videos in videos/), moments.jsonl, queries.jsonl, or several of them.", "DIR"
        ),
    ],
    words: EvalWordsOption = "auto",
    judge: JudgeOption = None,
    judge_top: JudgeTopOption = 20,
    judge_by: JudgeByOption = "auto",
    judge_permutations: JudgePermutationsOption = 1,
    llm_model: LlmModelOption = None,
    llm_timeout: LlmTimeoutOption = 120.0,
    model: EvalModelOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    out: OutOption = None,
    html: Annotated[bool, option("Also write report.html for each.", OUTPUT)] = True,
) -> None:
    """Evaluate your own annotated videos: retrieval, moments, and queries by kind in the whole corpus."""
    target = out or default_out(path.absolute().name, model)
    names = [name for name in (*OWN, QUERIES) if (path / f"{name}.jsonl").is_file()]
    if not names:
        raise VidretError(f"{path}: must contain captions.jsonl, moments.jsonl or queries.jsonl, got none of them")
    if judge is not None and QUERIES not in names:
        raise typer.BadParameter(f"needs {path / QUERIES}.jsonl, got no such file", param_hint="--judge")
    for position, name in enumerate(names):
        if position:
            print()
        settings: dict[str, Any] = {"model": model, "out": target / name, "html": html}
        settings |= {"device": device, "precision": precision}
        if name == "captions":
            retrieval_command(path, annotations=path, **settings)
        elif name == "moments":
            moments_command(path, annotations=path, **settings, corpus=True)
        else:
            judged = None
            if judge is not None:
                judged = JudgeSettings(
                    judge=judge,
                    by=judge_by,
                    top=judge_top,
                    permutations=judge_permutations,
                    frames=0,
                    llm_model=llm_model,
                    llm_timeout=llm_timeout,
                    device=device,
                    cache=target / JUDGED,
                )
            answer_queries(path, words, judged, **settings)


group.command("score")(score_command)
group.command("compare")(compare_command)
