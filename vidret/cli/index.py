"""vidret index, vidret info: make an index, describe it."""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.app import app
from vidret.cli.options import (
    DEFAULT_INDEX,
    DeviceOption,
    HeadOption,
    IndexOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    open_engine,
    parse_memory,
)
from vidret.present.show import show_count, show_info, show_progress, show_table, tell_report
from vidret.present.terminal import say

if TYPE_CHECKING:
    from vidret.index.progress import IndexReport


@app.command()
def index(
    paths: Annotated[
        list[str],
        typer.Argument(help="Files, folders, globs, or .jsonl/.csv manifests; also addresses: s3://, gs://, https://."),
    ],
    index: IndexOption = Path(DEFAULT_INDEX),
    model: ModelOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    rerank: Annotated[
        str,
        typer.Option(
            help="What a new index is prepared for: none, ucofia, glscl, the file of a trained aligner, or auto (the "
            "aligner beside the model's file; ucofia for the starter; else none).",
        ),
    ] = "auto",
    tokens: Annotated[str, typer.Option(help="How tokens are stored: int8 or float16.")] = "int8",
    head: HeadOption = "auto",
    store: Annotated[
        str | None,
        typer.Option(
            help="Where the vectors of a new index go: faiss (embedded), milvus:// (milvus-lite, in the index folder), "
            "milvus://FILE.db (milvus-lite, from the current folder), milvus://HOST:PORT or "
            "milvus://https://HOST:PORT/DATABASE. A server's token comes from MILVUS_TOKEN. The index remembers it; "
            "vidret store move changes it.",
        ),
    ] = None,
    prepare_moments: Annotated[
        bool,
        typer.Option(
            "--prepare-moments", help="Compute now what the grounding head needs of every video, not when it is asked."
        ),
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            help="What the search's vectors may take, such as 8GB or 512MiB: from 200,000 segments on the finest kind "
            "that fits is kept. The index remembers it; none: no limit."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Files at once; all cores unless given.")] = None,
    runner: Annotated[
        str, typer.Option(help="Where the work runs: local (this machine) or ray (a cluster).")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Of a Ray cluster: auto, HOST:PORT or ray://HOST:PORT; one of this machine unless given."),
    ] = None,
    num_gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With --runner ray: GPUs of each model that encodes, such as 1 or 0.5; 0 encodes on CPUs. "
            "Unless given, 1 where --device is CUDA and Ray has a GPU.",
        ),
    ] = None,
    decoder: Annotated[str, typer.Option(help="auto (Decord where it is exact, else PyAV), decord or pyav.")] = "auto",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds a decoder may stay silent.")] = 120.0,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Forget files that are gone from the folders given, unless nothing is left there."
        ),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Look again at failed files that did not change.")
    ] = False,
    fail_on_error: Annotated[bool, typer.Option("--fail-on-error", help="Exit with 1 when any file failed.")] = False,
    progress_json: Annotated[
        bool, typer.Option("--progress-json", help="Print progress as a line of JSON a second, to stderr.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Index videos: what is new or changed is encoded, the rest is skipped. Interrupt and run again at will."""
    if decoder not in ("auto", "decord", "pyav"):
        raise typer.BadParameter(f"must be auto, decord or pyav, got {decoder}", param_hint="--decoder")
    run = choose_run(runner, address, num_gpus_per_worker, precision)
    num_bytes = None if memory is None else parse_memory(memory)
    from vidret.store.store import Store

    fresh = not Store.exists(index)
    opened = open_engine(index, model, device, precision, rerank=rerank, tokens=tokens, head=head, store=store)
    if prepare_moments and opened.grounder is None:
        raise typer.BadParameter("needs a --head, got none", param_hint="--prepare-moments")
    if fresh and opened.encoder.name == "starter":
        say(
            "Using the embedded starter encoder. For CLIP quality take another --index and "
            "--model ViT-B-32/laion2b_s34b_b79k (downloads 600 MB once)."
        )
    with show_progress(as_json=progress_json) as advance:
        report = opened.index(
            paths,
            workers=workers,
            decoder=decoder,  # type: ignore[arg-type]
            timeout=timeout,
            prune=prune,
            retry_failed=retry_failed,
            memory=num_bytes,
            on_progress=advance,
            run=run,
        )
    if prepare_moments and not report.interrupted:
        with show_count("preparing moments", "videos") as count:
            opened.prepare_moments(timeout=timeout, on_progress=count)
    if as_json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        tell_report(report, index)
    if report.interrupted or (fail_on_error and report.failed):
        raise typer.Exit(1)


def choose_run(
    runner: str, address: str | None, num_gpus_per_worker: float | None, precision: str
) -> "Callable[..., IndexReport]":
    """Give what indexes files here, or on Ray."""
    if runner == "ray":
        from vidret.index.ray.run import index_on_ray

        return partial(index_on_ray, address=address, num_gpus_per_worker=num_gpus_per_worker, precision=precision)
    if runner != "local":
        raise typer.BadParameter(f"must be local or ray, got {runner}", param_hint="--runner")
    for hint, value in (("--address", address), ("--num-gpus-per-worker", num_gpus_per_worker)):
        if value is not None:
            raise typer.BadParameter("needs --runner ray, got --runner local", param_hint=hint)
    from vidret.index.run import index_files

    return index_files


@app.command()
def info(
    index: IndexOption = Path(DEFAULT_INDEX),
    failed: Annotated[bool, typer.Option("--failed", help="List the files that failed, with their reasons.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Read everything and look for damaged bytes.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="As --check; the next run encodes anew what is damaged.")
    ] = False,
    recall: Annotated[
        bool,
        typer.Option(
            "--recall",
            help="Measure how many of the nearest segments searches for candidates find, against exact ones.",
        ),
    ] = False,
    queries: Annotated[
        Path | None,
        typer.Option(help="With --recall: queries of yours, as for vidret calibrate; else a built-in list is taken."),
    ] = None,
    seed: Annotated[int, typer.Option(help="With --recall: of the sample of stored vectors.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Describe an index."""
    from vidret.store.store import Store
    from vidret.text import sanitize

    if recall:
        from vidret.cli.recalls import tell_recall

        tell_recall(index, queries, seed, as_json=as_json)
        return
    if queries is not None:
        raise typer.BadParameter("needs --recall, got none", param_hint="--queries")
    if repair and (lost := Store.repair_catalog(index)):
        for reason in lost:
            print(sanitize(f"catalog: {reason}"))
        say("the catalog was made anew of what is whole: run vidret index again over the same videos.")
    with Store.open(index, write=repair) as store:
        if failed:
            rows = [(sanitize(record.path), record.reason) for record in store.files(state="failed")]
            if as_json:
                print(json.dumps([{"path": path, "reason": reason} for path, reason in rows], indent=2))
            else:
                show_table(("file", "reason"), rows, "no file failed")
            return
        if check or repair:
            damaged = store.verify(repair=repair)
            for bad in damaged:
                print(sanitize(f"segment {bad.number} of video {bad.video}: {bad.reason}"))
            say(f"{len(damaged)} damaged segments{', to be encoded again' if repair and damaged else ''}")
            files = store.verify_vectors(repair=repair)
            for file in files:
                print(sanitize(f"{file.path}: {file.reason}"))
            if files:
                say(f"{len(files)} damaged files of vectors{', dropped, to be built anew' if repair else ''}")
            raise typer.Exit(1 if (damaged or files) and not repair else 0)
        facts = store.info()
    if as_json:
        print(json.dumps({**dataclasses.asdict(facts), "files": dict(facts.files)}, indent=2))
    else:
        show_info(facts)
