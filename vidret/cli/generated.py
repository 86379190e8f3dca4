"""The command ``vidret eval generated``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vidret.cli.evaluate import DATA, VideosOption, group
from vidret.cli.opening import choose_model
from vidret.cli.options import MODEL, DeviceOption, JsonOption, PrecisionOption
from vidret.present.progress import show_count
from vidret.present.show import show_table

PromptsOption = Annotated[
    Path,
    typer.Option(metavar="FILE", help='JSON lines with "prompt" and "video", a file in DIR.', rich_help_panel=DATA),
]
RealOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of real videos; adds STREAM, which compares both.", rich_help_panel=DATA),
]
GeneratedModelOption = Annotated[
    str | None, typer.Option(metavar="NAME|FILE", help="Encoder, as for vidret index.", rich_help_panel=MODEL)
]
NUM_SHOWN = 10  # prompts in the table, worst first
STREAM_ROWS = {
    "temporal": "STREAM-T, published exponent",
    "temporal_corrected": "STREAM-T, corrected exponent",
    "temporal_of_real_halves": "STREAM-T of two halves of the real videos",
    "fidelity": "STREAM-S, fidelity",
    "diversity": "STREAM-S, diversity",
}


@group.command("generated")
def generated_command(
    prompts: PromptsOption,
    videos: VideosOption,
    real: RealOption = None,
    model: GeneratedModelOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Evaluate videos that a model generated from prompts: alignment, consistency, diversity and STREAM."""
    from vidret.encode.encoder import STARTER
    from vidret.encode.load import load_encoder
    from vidret.evaluate.generated import evaluate_generated, read_prompts
    from vidret.video.scan import list_videos

    by_path = read_prompts(prompts, videos)
    originals = [] if real is None else list_videos([str(real)]).files
    encoder = load_encoder(choose_model(model) or STARTER, device=device, precision=precision)
    with show_count("encoding", "videos") as on_count:
        report = evaluate_generated(encoder, by_path, originals, on_progress=on_count)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        show_generated(report)


def show_generated(report: dict[str, Any]) -> None:
    """Print the scores, and those of the prompts with the worst alignment."""
    rows = [
        ("videos", f"{report['num_videos']} of {report['num_prompts']} prompts"),
        ("alignment", f"{report['alignment']:.3f}, the cosine of frames and prompt"),
        ("own prompt fits best", f"{report['prompt_recall']:.1f} %"),
        ("temporal consistency", f"{report['consistency']:.3f}, the cosine of successive frames"),
        *[(STREAM_ROWS[name], f"{value:.3f}") for name, value in report.get("stream", {}).items()],
    ]
    show_table(("", ""), rows)
    print()
    columns = ("alignment", "consistency", "diversity", "videos", "prompt")
    lines = [
        (*(f"{each[name]:.3f}" for name in columns[:3]), str(each["num_videos"]), each["prompt"])
        for each in report["prompts"][:NUM_SHOWN]
    ]
    show_table(columns, lines)
