"""The commands that move vectors: ``vidret export``, ``import``, ``merge``, ``store`` and ``reindex``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from vidret.cli.app import add_group, app
from vidret.cli.opening import choose_model, open_engine
from vidret.cli.options import (
    DEFAULT_INDEX,
    FILTERS,
    MODEL,
    OUTPUT,
    DeviceOption,
    IndexOption,
    JsonOption,
    Loading,
    MergeOption,
    ModelOption,
    OnlyIndexOption,
    PrecisionOption,
    WorkersOption,
    argument,
    index_option,
    option,
)
from vidret.errors import EncoderError, MissingExtraError, StoreError, UnknownEncoderError, VidretError
from vidret.present.progress import print_import_summary, print_merge_summary, show_count, show_progress
from vidret.present.show import print_result, run_to_dict
from vidret.present.terminal import print_message, show_status
from vidret.store.store import Store
from vidret.text import display_path, format_count

if TYPE_CHECKING:
    from vidret.encode.names import MergeLevel
    from vidret.reindex import ReindexReport

export_group = add_group("export")
LEVELS = ("segment", "frame")
VECTOR_FORMATS = ("npy", "parquet", "safetensors")


@export_group.command("embeddings")
def embeddings_command(
    out: Path = argument(
        "File to write: .npy, with a .csv of paths and times beside it, .parquet (extra parquet) or .safetensors. An "
        "existing one is replaced.",
        "FILE",
    ),
    level: str = option("One vector for each segment or frame.", OUTPUT, "|".join(LEVELS), default="segment"),
    folder: str | None = option("Only videos in this folder, at any depth.", FILTERS, "DIR|URL", default=None),
    index: IndexOption = DEFAULT_INDEX,
) -> None:
    """Write the stored vectors with their paths and times. No model is loaded."""
    from vidret.present.contents import check_vector_format, write_embeddings
    from vidret.store.lookup import read_embeddings
    from vidret.text import absolute_path
    from vidret.types import Filters

    form = out.suffix.removeprefix(".")
    if form not in VECTOR_FORMATS:
        raise typer.BadParameter(f"must end in .{', .'.join(VECTOR_FORMATS)}, got {out}", param_hint="FILE")
    check_vector_format(form)
    filters = Filters(folder=None if folder is None else absolute_path(folder))
    with Store.open(index) as store:
        embeddings = read_embeddings(store, "frame" if level == "frame" else "segment", filters)
    if not len(embeddings.vectors):
        raise VidretError(f"{index}: there is no vector to write")
    written = write_embeddings(embeddings, out, form)
    vectors = format_count(len(embeddings.vectors), "vector")
    print_message(f"{vectors} of {embeddings.vectors.shape[1]}: {', '.join(map(str, written))}")


@app.command("import")
def import_command(
    source: Path = argument(
        "Vectors as vidret export embeddings writes them (.npy with a .csv, .parquet or .safetensors), or a "
        "folder of clip-retrieval (img_emb and metadata). Rows name a video by path, video_path or image_path, and "
        "its segment by start_s and end_s, equal for a frame; a row without times is a whole video.",
        "FILE|FOLDER",
    ),
    index: Annotated[Path, index_option(text="Index folder, new or not.")] = DEFAULT_INDEX,
    model: ModelOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Index videos with vectors that another program made: files of vidret export, folders of clip-retrieval.

    --model names the encoder of the vectors, which encodes queries. Safe to interrupt and run again. Exits with 1 if a
    video could not be imported.
    """
    from vidret.index.importing import read_vectors

    embeddings = read_vectors(source)
    with (
        open_engine(index, Loading(device=device), model=model, may_be_new=True) as engine,
        show_count("importing", "videos") as on_count,
    ):
        report = engine.import_embeddings(embeddings, on_progress=on_count)
    print_result(report, lambda done: print_import_summary(done, index), as_json=as_json, as_row=run_to_dict)
    if report.failed:
        raise typer.Exit(1)


@app.command("merge")
def merge_command(
    indexes: list[Path] = argument("Index folders to merge; they are only read.", "INDEX"),
    index: Path = option("Folder to merge into, new or not.", None, "DIR", envvar="VIDRET_INDEX"),
    device: DeviceOption = "auto",
    as_json: bool = option("Print JSON.", default=False, flag="--json"),
) -> None:
    """Merge indexes that were built separately into one. Safe to interrupt and run again."""
    from vidret.index.merging import merge_indexes

    with show_count("merging", "segments, files and moments") as on_count:
        report = merge_indexes(indexes, index, on_progress=on_count)
    if not report.interrupted and (reason := prepare_merged(index, device)):
        report = replace(
            report, notes=[*report.notes, f"its first search measures what unrelated queries score: {reason}"]
        )
    print_result(report, lambda done: print_merge_summary(done, index), as_json=as_json, as_row=run_to_dict)
    if report.interrupted:
        raise typer.Exit(1)


def prepare_merged(index: Path, device: str) -> str:
    """Prepare the searches of a merged index; return the reason if its encoder cannot be loaded, else an empty text."""
    try:
        with open_engine(index, Loading(device=device)) as engine, show_status("preparing searches"):
            engine.prepare_searches()
    except (EncoderError, MissingExtraError, StoreError) as error:
        return str(error)
    return ""


store_group = add_group("store")


@store_group.command("move")
def move_command(
    source: str = argument("The present store, as vidret info shows it.", "FROM"),
    target: str = argument("The new store: faiss or milvus://..., as for vidret index --store.", "TO"),
    index: OnlyIndexOption = DEFAULT_INDEX,
) -> None:
    """Move the vectors from FAISS to Milvus or back. Searches keep working. Safe to interrupt and run again."""
    from vidret.store.texts.store import TextStore

    with Store.open(index, write=True) as store:
        with show_count("moving", "videos") as on_count:
            store.upkeep.move_vectors(source, target, on_progress=on_count)
        if TextStore.exists(index):
            with TextStore.open(index, write=True) as texts, show_count("moving texts", "tracks") as on_count:
                texts.store.upkeep.move_vectors(None, target, on_progress=on_count)
        current = store.info().store
    print_message(f"The vectors of {index} are in {current}.")


NUM_LISTED = 5


@app.command("reindex")
def reindex_command(
    index: OnlyIndexOption = DEFAULT_INDEX,
    allow_loss: bool = option(
        "Switch even if some videos will no longer be found, such as those whose files are gone.", default=False
    ),
    model: str | None = option(
        "The new encoder, as for vidret index. VIDRET_MODEL sets the default.", MODEL, "NAME|FILE", default=None
    ),
    merge: MergeOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
    workers: WorkersOption = None,
) -> None:
    """Move an index to another encoder. Searches keep their old answers until all new vectors are there.

    Safe to interrupt and run again. Words, watches and settings stay; concepts are taught again from their examples.
    """
    from vidret.encode.names import set_merge
    from vidret.reindex import reindex
    from vidret.search.models import read_encoder_name

    name = choose_model(model)
    if merge is not None:
        name = set_merge(name or read_encoder_name(index), cast("MergeLevel", merge))
    if name is None:
        raise typer.BadParameter("must be given, or VIDRET_MODEL, got neither", param_hint="--model")
    try:
        with show_progress() as on_progress:
            report = reindex(
                index,
                name,
                device=device,
                precision=precision,
                workers=workers,
                allow_loss=allow_loss,
                on_progress=on_progress,
            )
    except UnknownEncoderError as error:
        raise typer.BadParameter(str(error).removeprefix("model "), param_hint="--model") from error
    print_result(report, lambda done: print_reindex_summary(done, index), as_json=as_json, as_row=run_to_dict)
    if not report.switched:
        raise typer.Exit(1)


def print_reindex_summary(report: "ReindexReport", index: Path) -> None:
    """Print the result of moving an index to another encoder, and what is left to do."""
    if report.interrupted:
        print_message("Interrupted: the index has its old vectors. Run the same command again to continue.")
        return
    if report.switched:
        print_message(f"{index} has the vectors of {report.encoder}: {report.videos} videos")
    else:
        print_message(
            f"{index} keeps its old vectors, since {len(report.lost)} of its videos cannot be encoded; restore "
            "their files and run the same command again, or switch without them by --allow-loss"
        )
    for path, reason in report.lost[:NUM_LISTED]:
        print_message(f"  {'lost' if report.switched else 'not encoded'}: {display_path(path)}: {reason}")
    if len(report.lost) > NUM_LISTED:
        print_message(f"  and {len(report.lost) - NUM_LISTED} more; --json lists them all")
    if report.concepts:
        print_message(f"  taught again: {', '.join(f'@{name}' for name in report.concepts)}")
    for name, reason in report.to_teach:
        print_message(f"  must be taught again: @{name}: {reason}")
    for what in report.to_redo:
        print_message(f"  does not fit the new encoder: {what}")
