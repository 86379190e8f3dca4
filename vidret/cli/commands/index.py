"""The command ``vidret index``; with ``--watch``, it indexes again after each change of the files."""

import contextlib
import ctypes
import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import typer

from vidret.cli.app import app
from vidret.cli.commands.watch import MATCHED, report_matches
from vidret.cli.index_options import IndexChoices
from vidret.cli.language_model import make_endpoint
from vidret.cli.opening import choose_merge, choose_model, open_engine, pause_collection
from vidret.cli.options import Loading, name_index, with_fields
from vidret.cli.values import parse_memory
from vidret.endpoints.transport import check_webhook
from vidret.errors import MissingExtraError, StoreError, VidretError
from vidret.present.progress import print_describe_summary, print_index_summary, show_count, show_progress
from vidret.present.show import print_json, run_to_dict
from vidret.present.terminal import print_error, print_failure, print_message
from vidret.text import absolute_path, format_count, is_below, is_url, show_path, with_slashes
from vidret.video.decoders.base import SAMPLING_MODES, SamplingMode

if TYPE_CHECKING:
    from vidret.channels.texts.options import WordsOptions
    from vidret.engine import Engine, IndexRunner
    from vidret.index.options import IndexReport
    from vidret.language.endpoint import ChatEndpoint
    from vidret.video.decoders.registry import Decoder


SETTLE_MS = 2000  # a file that is being copied changes at shorter intervals
BEGIN_MS = 500  # without a change in this time, the files are watched
LONGEST_MS = 10_000  # changes are reported after this time even if they go on, as in an index that is searched


def read_watched(paths: list[str]) -> list[str]:
    """Return the absolute paths of the folders and files to watch."""
    if importlib.util.find_spec("watchfiles") is None:
        raise MissingExtraError("--watch", "watch")
    for path in paths:
        if is_url(path) or not Path(path).expanduser().exists():
            rule = f"must be existing folders or files to watch, got {show_path(path)}"
            raise typer.BadParameter(rule, param_hint="--watch")
    return [absolute_path(os.path.expanduser(path)) for path in paths]  # noqa: PTH111  a path may hold any bytes


def iterate_changes(paths: Sequence[str], ignored: Path) -> Iterator[None]:
    """Yield once the files and folders (at any depth) are watched, and then each time that changes have settled.

    Changes while the caller is busy are reported afterwards. Files of the folder ``ignored``, such as the index, do not
    count. Ctrl-C ends the iteration.
    """
    from watchfiles import watch

    hidden = absolute_path(ignored)

    def is_wanted(_change: Any, path: str) -> bool:
        changed = with_slashes(path)
        return changed != hidden and not is_below(changed, hidden)

    settings: dict[str, Any] = {"debounce": LONGEST_MS, "step": SETTLE_MS, "rust_timeout": BEGIN_MS}
    watching = watch(*paths, watch_filter=is_wanted, yield_on_timeout=True, **settings)
    with contextlib.suppress(KeyboardInterrupt):  # with raise_interrupt=False, watchfiles would log a warning
        for change_index, changes in enumerate(watching):
            if changes or not change_index:
                yield


def keep_up(once: Callable[[], tuple[int, bool]], watched: list[str], index: Path) -> int:
    """Index now and after each change until Ctrl-C; return the exit code, that of a run which Ctrl-C interrupts.

    ``once`` returns the exit code of a run, and whether it was interrupted. The next change starts another run even if
    one reports failures or stops at an error, such as a full disk or a missing drive.
    """
    for run_index, _ in enumerate(iterate_changes(watched, index)):
        try:
            code, is_interrupted = once()
        except VidretError as error:
            if not run_index:
                raise
            print_failure(error)
            continue
        if is_interrupted:
            return code
        if not run_index:
            print_message("Watching for changes (press Ctrl-C to stop).")
    return 0


DESCRIBE_TIMEOUT_S = 120.0  # of one request
# By their numbers in glibc's malloc.h: M_ARENA_MAX; M_MMAP_THRESHOLD and M_TRIM_THRESHOLD in bytes, without which the
# memory that one batch frees returns to the system, and the next batch waits for it.
_ONE_HEAP = {-8: 1, -3: 32 << 20, -1: 64 << 20}
GOOD_COST = 13  # CPU time of encoding a frame with it, relative to the starter; see docs/models.md
SWITCH = {"auto": None, "on": True, "off": False}
SAMPLING: dict[str, SamplingMode | None] = {"auto": None, **{mode: mode for mode in SAMPLING_MODES}}


@app.command("index")
@with_fields()
def index_command(*, asked: IndexChoices) -> None:
    """Index videos: encode what is new or changed. Safe to interrupt and run again."""
    from vidret.store.store import Store

    share_heap()
    index = asked.index
    if asked.webhook is not None:
        check_webhook(asked.webhook)
    watched = read_watched(asked.paths) if asked.watch else []
    check_indexed_paths(asked.paths, index)  # before a model is loaded or downloaded
    endpoint = choose_describer(asked)
    run = choose_run(asked.runner, asked.address, asked.num_gpus_per_worker, asked.precision)
    memory = None if asked.memory is None else parse_memory(asked.memory)
    is_new = not Store.exists(index)
    words = parse_words(
        asked.words,
        asked.sounds,
        index,
        speech_model=asked.speech_model,
        sound_model=asked.sound_model,
        sentence_model=asked.sentence_model,
    )
    engine = open_engine(
        index,
        Loading(device=asked.device, precision=asked.precision),
        model=choose_merge(asked.merge, asked.model, index),
        rerank=asked.rerank,
        tokens=asked.tokens,
        head=asked.head,
        store=asked.store,
        may_be_new=True,
    )
    if asked.prepare_moments and engine.grounder is None:
        raise typer.BadParameter("needs a --head, got none", param_hint="--prepare-moments")
    if is_new and choose_model(asked.model) is None:
        suggest_model()
    if not asked.progress_json:  # programs read its lines
        print_message(f"Pipeline: {engine.pipeline}", style="dim")
    update = partial(
        engine.index,
        asked.paths,
        run=run,
        workers=asked.workers,
        decoder=cast("Decoder", asked.decoder),
        timeout=asked.timeout,
        memory=memory,
        shots=SWITCH[asked.shots],
        sampling=SAMPLING[asked.sampling],
        prune=asked.prune,
        exclude=asked.exclude or (),
        retry_failed=asked.retry_failed,
        words=words,
        people=choose_identities(asked.people, asked.face_model, "people", "--face-model"),
        speakers=choose_identities(asked.speakers, asked.speaker_model, "speakers", "--speaker-model"),
    )

    once = partial(index_once, engine, asked, update, endpoint, is_new=is_new)
    raise typer.Exit(keep_up(once, watched, index) if asked.watch else once()[0])


def check_indexed_paths(paths: Sequence[str], index: Path) -> None:
    """Refuse missing paths, and say of those that the index knows that their drive may be disconnected."""
    from vidret.store.store import Store
    from vidret.video.scan import MISSING, check_paths

    for path in paths:
        try:
            check_paths([path])
        except VidretError:
            if not Store.exists(index):
                raise
            missing = absolute_path(os.path.expanduser(path))  # noqa: PTH111
            with Store.open(index) as store:
                known = [file for file in store.files.find() if file.path == missing or is_below(file.path, missing)]
            if not known:
                raise
            rule = f"{MISSING}; the index has {format_count(len(known), 'file')} of it"
            advice = "its drive may be disconnected. If it was moved, index its new path."
            raise VidretError(f"{path}: {rule}: {advice}") from None


def choose_describer(asked: IndexChoices) -> "ChatEndpoint | None":
    """Return the endpoint that describes segments, None without ``--describe``."""
    if asked.describe is not None:
        return make_endpoint(asked.describe, asked.describe_model, DESCRIBE_TIMEOUT_S, name="describe")
    if asked.describe_choices > 1:
        raise typer.BadParameter("needs --describe URL, got none", param_hint="--describe-choices")
    return None


def index_once(
    engine: "Engine",
    asked: IndexChoices,
    update: "Callable[..., IndexReport]",
    endpoint: "ChatEndpoint | None",
    *,
    is_new: bool,
) -> tuple[int, bool]:
    """Index new and changed files, and report; return the exit code, and whether the run was interrupted."""
    from vidret.language.describing import DescribeOptions

    with show_progress(as_json=asked.progress_json) as on_progress:
        report = update(on_progress=on_progress)
    if asked.prepare_moments and not report.interrupted:
        with show_count("preparing moments", "videos") as on_count:
            engine.prepare_moments(timeout=asked.timeout, on_progress=on_count)
    described = None
    if endpoint is not None and not report.interrupted:
        how = DescribeOptions(max_calls=asked.max_calls, choices=asked.describe_choices)
        with show_count("describing", "segments") as on_count:
            described = engine.describe_segments(endpoint, how, on_progress=on_count)
    if asked.as_json:
        rows = {} if described is None else {"described": dataclasses.asdict(described)}
        print_json(run_to_dict(report) | rows)
    else:
        print_index_summary(report, asked.index)
        if is_new and report.encoded and not (report.unchanged or report.interrupted):
            print_message(f"  Search them: vidret search QUERY{name_index(asked.index)}")
    if described is not None:
        print_describe_summary(described)
    matched, has_failed = False, described is not None and bool(described.error)
    if not report.interrupted:
        try:
            matched = report_matches(engine, asked.index, as_json=asked.as_json, webhook=asked.webhook)
        except VidretError as error:  # the run itself succeeded, so --watch goes on
            print_error(str(error))
            has_failed = True
    is_useless = not (report.encoded or report.linked or report.unchanged)
    if report.interrupted or has_failed or (report.failed and (asked.fail_on_error or is_useless)):
        return 1, report.interrupted
    return MATCHED if asked.exit_code and matched else 0, False


def share_heap() -> None:
    """Let all threads of this process share one heap of glibc, as those of its decoders do."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries have one heap, or no such setting
        for option, value in _ONE_HEAP.items():
            ctypes.CDLL(None).mallopt(option, value)


def suggest_model() -> None:
    """Print one line on what the recommended model gains and costs, unless it cannot be downloaded."""
    from huggingface_hub import constants

    from vidret.encode.names import RECOMMENDED

    if constants.HF_HUB_OFFLINE:
        return
    good = RECOMMENDED["good"]
    print_message(
        "Using the built-in starter encoder, which knows objects, scenes and colours. --model good also finds "
        f"actions and relations: a download of {good.size_bytes / 1e9:.1f} GB, once, and {GOOD_COST} times the work of "
        "encoding."
    )


def parse_words(
    text: str,
    sounds: str,
    index: Path,
    *,
    speech_model: str | None = None,
    sound_model: str | None = None,
    sentence_model: str | None = None,
) -> "WordsOptions | Literal[False]":
    """Return which words and sounds to read, given the options for them."""
    from vidret.channels.texts.run import choose_sounds, read_setting

    if sound_model and Path(sound_model).is_dir():
        sound_model = f"hf:{sound_model}"
    try:
        words = read_setting(index, text, speech_model, sound_model)
    except StoreError:
        raise
    except VidretError as error:
        raise typer.BadParameter(str(error), param_hint="--words") from error
    chosen = choose_sounds(words, sounds, sound_model)
    if sound_model is not None and (chosen is None or "sound" not in chosen.sources):
        raise typer.BadParameter(f"needs --sounds on, got {sounds}", param_hint="--sound-model")
    if sentence_model is None:
        return chosen or False
    if chosen is None:
        raise typer.BadParameter(f"needs --words on, got {text}", param_hint="--sentence-model")
    return dataclasses.replace(chosen, sentence_model=sentence_model)


def choose_identities(setting: str, model: str | None, argument: str, model_option: str) -> bool | str | None:
    """Return whether to read faces (or voices), or the model to read them, given the values of their two options."""
    wanted = SWITCH[setting]
    if model is not None and wanted is not True:
        raise typer.BadParameter(f"needs --{argument} on, got {setting}", param_hint=model_option)
    return wanted if model is None else model


def choose_run(runner: str, address: str | None, num_gpus_per_worker: float | None, precision: str) -> "IndexRunner":
    """Return the function that indexes files: on threads of this machine, or on Ray."""
    if runner == "ray":
        from vidret.index.ray.run import index_on_ray

        return partial(index_on_ray, address=address, num_gpus_per_worker=num_gpus_per_worker, precision=precision)
    for hint, value in (("--address", address), ("--num-gpus-per-worker", num_gpus_per_worker)):
        if value is not None:
            raise typer.BadParameter("needs --runner ray, got --runner local", param_hint=hint)
    with pause_collection():
        from vidret.index.run import index_files

    return index_files
