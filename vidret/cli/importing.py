"""The command ``vidret import``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vidret.cli.app import app
from vidret.cli.opening import open_engine
from vidret.cli.options import DEFAULT_INDEX, DeviceOption, JsonOption, ModelOption, index_option
from vidret.present.progress import show_count
from vidret.present.show import run_to_dict
from vidret.present.summaries import print_import_summary

SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE|FOLDER",
        help="Vectors as vidret export embeddings writes them (.npy with a .csv, .parquet or .safetensors), or a "
        "folder of clip-retrieval (img_emb and metadata). Rows name a video by path, video_path or image_path, and its "
        "segment by start_s and end_s, equal for a frame; a row without times is a whole video.",
    ),
]


@app.command("import")
def import_command(
    source: SourceArgument,
    index: Annotated[Path, index_option(text="Index folder, new or not.")] = Path(DEFAULT_INDEX),
    model: ModelOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Index videos by vectors that another program made: files of vidret export, folders of clip-retrieval.

    --model names the encoder of the vectors, which reads queries. Safe to interrupt and run again. Exits with 1 if the
    vectors of a video were not taken.
    """
    from vidret.index.vector_files import read_vectors

    embeddings = read_vectors(source)
    with open_engine(index, model, device, "auto") as engine, show_count("importing", "videos") as on_count:
        report = engine.import_embeddings(embeddings, on_progress=on_count)
    if as_json:
        print(json.dumps(run_to_dict(report), indent=2))
    else:
        print_import_summary(report, index)
    if report.failed:
        raise typer.Exit(1)
