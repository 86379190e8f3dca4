"""The command ``vidret search``."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vidret.cli.app import app
from vidret.cli.language_model import FOLDER, JudgeSettings, draw_hit, make_judge, open_frames_of
from vidret.cli.opening import interpret_query, open_engine_or_client
from vidret.cli.options import (
    OUTPUT,
    QUERY_HELP,
    SCOPE,
    JsonOption,
    Loading,
    Places,
    SheetOption,
    TrustedModelOption,
    argument,
    option,
)
from vidret.cli.search_options import ClipChoice, SaveOption, answer_clip, draw_results, save_search, with_search_fields
from vidret.cli.values import iterate_queries, read_image_file
from vidret.errors import VidretError
from vidret.present.show import (
    explain_nothing,
    group_by_video,
    print_json,
    print_result,
    result_to_dict,
    show_grouped_moments,
    show_hits,
    show_interpretation,
    video_to_dict,
)
from vidret.present.terminal import print_message
from vidret.types import MAX_LOCATED, LocateOptions, Searchable, SearchOptions

if TYPE_CHECKING:
    from vidret.client import RemoteEngine
    from vidret.engine import Engine
    from vidret.language.judging import JudgedHit
    from vidret.types import Query

RESULTS = ("video", "moment")


@app.command("search")
@with_search_fields
def search_command(
    *,
    query_words: list[str] | None = argument(QUERY_HELP, "QUERY", default=None),
    image: list[Path] | None = option(
        "Image to search with; QUERY then says what else it must match. Repeatable.", SCOPE, "FILE", default=None
    ),
    queries: Path | None = option(
        'Many queries: one JSON object per line (.jsonl) with "query", or with "events" in order and a maximum '
        '"gap" in seconds; - for stdin. Prints one line of JSON per query.',
        SCOPE,
        "FILE",
        default=None,
    ),
    footage: ClipChoice,
    place: Places,
    options: SearchOptions,
    by: str = option(
        "What to list: one result per video, or all moments, grouped by video.",
        OUTPUT,
        "|".join(RESULTS),
        default="video",
    ),
    judging: JudgeSettings,
    explain: bool = option("Show each score and its parts.", OUTPUT, default=False),
    save: SaveOption = None,
    sheet: SheetOption = None,
    as_json: JsonOption = False,
    model: TrustedModelOption = None,
    loading: Loading,
) -> None:
    """Find the videos that match a query."""
    query = " ".join(query_words) if query_words else None  # people forget the quotes
    others = sum(value is not None for value in (queries, footage.clip))
    if query is None and not image and not others and options.like:
        query = ""
    if others + (query is not None or bool(image)) != 1:
        rule = "give a query, --image FILE, both, or only --clip FILE, --queries FILE or --like FILE@TIME"
        raise typer.BadParameter(rule, param_hint="QUERY")
    footage.check(options)
    judging.check()
    many, by_moment, is_wordy = queries is not None, by == "moment", bool(query) and not image
    refuse_together(
        ("--queries", many and by_moment, "needs --by video, got moment"),
        ("--sheet", many and sheet is not None, "needs a single search, got --queries"),
        ("--explain", many and explain, "needs a single search, got --queries"),
        ("--clip", footage.clip is not None and (by_moment or explain), "needs --by video without --explain"),
        (
            "--by",
            by_moment and place.server is not None and options.k + options.offset > MAX_LOCATED,
            f"with --server, moment needs -k plus --offset of at most {MAX_LOCATED}, got {options.k + options.offset}",
        ),
        ("--explain", explain and by_moment, "needs --by video, got moment"),
        ("--save", save is not None and (by_moment or not is_wordy), "needs a QUERY of words only, and --by video"),
    )
    search_for = read_query(query, image or [])
    if judging.judge is not None:
        check_judged(query, options, by, image or [])
    engine = open_engine_or_client(place, loading, model=model)
    if footage.clip is not None:
        answer_clip(engine, footage, options.k, filters=options.filters, as_json=as_json, sheet=sheet)
        return
    if queries is not None:
        print_answers(engine, queries, options)
        return
    assert search_for is not None
    if save is not None and query:
        save_search(engine, save, query, options)
    if query and options.rerank == "auto":
        show_interpretation(interpret_query(engine, query, ("picture",) if image else options.sources))
    liked = [*map(str, image or []), *(str(video) for video, _ in options.like)]
    heading = " ".join(part for part in (query, f"like {', '.join(liked)}" if liked else "") if part)
    if by_moment:
        show_moments_by_video(engine, search_for, options, heading, sheet, as_json=as_json)
        return
    if judging.judge is not None:
        assert query is not None
        cache = place.index[0] / FOLDER if place.server is None else None
        judged = search_and_judge(engine, query, options, judging, loading.device, cache)
        hits = [answer.hit for answer in judged]
    else:
        hits, judged = engine.search_with(search_for, options), []
    if as_json:
        rows = [result_to_dict(hit) for hit in hits]
        for row, answer in zip(rows, judged, strict=False):
            row |= {"old_rank": answer.old_rank, "reason": answer.reason}
        print_json(rows)
    else:
        nothing = explain_nothing(options)
        show_hits(hits, explain=explain, judged=judged, first_rank=options.offset + 1, empty=nothing)
    draw_results(hits, heading, sheet, first_rank=options.offset + 1)


def refuse_together(*rules: tuple[str, object, str]) -> None:
    """Refuse the first option that excludes other given ones; each row has its rule."""
    for flag, is_given, rule in rules:
        if is_given:
            raise typer.BadParameter(rule, param_hint=flag)


def check_judged(query: str | None, options: SearchOptions, by: str, images: Sequence[Path]) -> None:
    """Check that a judge can rerank this search."""
    if not query or images:
        got = "--image" if images else "none"
        raise typer.BadParameter(f"needs a QUERY of words only, got {got}", param_hint="--judge")
    if by != "video" or options.offset or options.sort_by is not None:
        raise typer.BadParameter("needs --by video without --offset and --sort-by", param_hint="--judge")


def search_and_judge(
    engine: "Engine | RemoteEngine",
    query: str,
    options: SearchOptions,
    settings: JudgeSettings,
    device: str,
    cache: Path | None,
) -> "list[JudgedHit]":
    """Return the hits of a search in the order of a judge; if it fails, in their own, with a note on stderr."""
    from vidret.language.judging import judge_hits, keep_order

    hits = engine.search_with(query, replace(options, k=max(options.k, settings.judge_top)))
    try:
        judge, how = make_judge(settings, device, cache)
    except VidretError as error:
        print_message(f"note: nothing was judged, so results keep the order of the search: {error}")
        return list(keep_order(hits)[: options.k])
    num_frames = settings.judge_frames
    with open_frames_of(engine) as draw:
        show = partial(draw_hit, engine, draw, num_frames) if num_frames else None
        judged = judge_hits(engine, query, hits, judge, how, draw=show)
    if judged.note:
        print_message(f"note: {judged.note}")
    return list(judged.hits[: options.k])


def print_answers(engine: Searchable, queries: Path, options: SearchOptions) -> None:
    """Print the videos for each query of a file, one line of JSON per query."""
    for row, query in iterate_queries(queries):
        hits = [result_to_dict(hit) for hit in engine.search_with(query, options)]
        text = interpret_query(engine, query, options.sources).describe()
        read_as = {"interpretation": text} if text else {}
        print(json.dumps({**row, **read_as, "hits": hits}, ensure_ascii=False), flush=True)


def show_moments_by_video(
    engine: Searchable, query: "Query", options: SearchOptions, heading: str, sheet: Path | None, *, as_json: bool
) -> None:
    """Print the best moments of all videos, grouped by video."""
    rule = "needs --by video, got moment"
    refuse_together(
        ("--rerank", options.rerank != "auto", f"{rule} and {options.rerank}"),
        ("--refine", options.refine, rule),
        ("--like", options.like or options.unlike, rule),
        ("--sort-by", options.sort_by, rule),
        ("--display", options.display != SearchOptions().display, rule),
    )
    wanted = LocateOptions(
        videos=options.k + options.offset,
        sources=options.sources,
        person=options.person,
        filters=options.filters,
        k=options.k,
        offset=options.offset,
        at_least=options.at_least,
        copies=options.copies,
    )
    moments = engine.locate_with(query, wanted)
    show = partial(show_grouped_moments, first_rank=options.offset + 1, empty=explain_nothing(options))
    print_result(moments, show, as_json=as_json, as_row=lambda found: [*map(video_to_dict, group_by_video(found))])
    draw_results(moments, heading, sheet, first_rank=options.offset + 1)


def read_query(query: str | None, images: Sequence[Path]) -> "Query | None":
    """Return the query: words, images, or both; None without any."""
    if not images:
        return query
    from vidret.types import ComposedQuery

    pictures = tuple(read_image_file(image) for image in images)
    return pictures[0] if query is None and len(pictures) == 1 else ComposedQuery(images=pictures, text=query or "")
