"""Reports as text: a summary of the evaluation, and tables of the main metrics."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidret.metrics.retrieval import CUTS
from vidret.present.html import Table
from vidret.text import format_count, format_time

Facts = Mapping[str, Any]
OWN = ("captions", "moments", "queries")
NUM_LISTED = 5  # missing videos listed by name

DIRECTIONS = {"t2v": "text to video", "v2t": "video to text"}
RETRIEVAL = ("R@1", "R@5", "R@10", "R@50", "R-Sum", "MdR", "MnR")
BY_KIND = ("R@1", "R@10", "R1@0.5", "hit@1", "nothing")
QUERIES = {"composed": "frame and text", "text": "text only", "image": "frame only"}
CORPUS = {"VCMR": "correct span of the correct video", "SVMR": "correct span, among those of the correct video"}
VERDICTS = {
    "first": "first is better",
    "second": "second is better",
    "neither": "may be chance",
    "identical": "identical",
}


def describe_report(report: Facts) -> Iterator[str]:
    """Yield lines about the data, the model, the duration, and missing videos."""
    data, model, settings = report["data"], report["model"], report["settings"]
    yield f"{report['task']} on {name_data(data)} ({', '.join(data['files'])})"
    noun = "caption" if data["num_captions"] else "query"
    texts = format_count(data["num_captions"] or data["num_queries"], noun)
    yield f"{texts}, {data['num_found']} of {format_count(data['num_videos'], 'video')}"
    by = f"scored by {settings['rerank']}" if "rerank" in settings else f"found by {settings.get('by')}"
    yield f"model {model['name']}, segments {model['segments']}, {by}"
    if cost := model.get("cost"):
        yield describe_cost(cost, settings.get("seconds_per_pair"))
    if report["seconds"]:
        yield ", ".join(f"{step} {format_time(seconds)}" for step, seconds in report["seconds"].items())
    yield from describe_missing(data)
    for note in data["notes"]:
        yield f"note: {note}"


def describe_cost(cost: Facts, pair_s: float | None) -> str:
    """Return a line about a model's operations and size, and the time to score a pair."""
    millions = f"{cost['num_parameters'] / 1e6:.1f} M parameters"
    added = f", {cost['num_added'] / 1e6:.2f} M of them added to CLIP" if cost["num_added"] else ""
    pair = f", {1e6 * pair_s:.3g} us a pair" if pair_s is not None else ""
    tokens = f"{cost['output_tokens']} output tokens"
    return f"{cost['video_gmacs']:.1f} billion multiply-adds and {tokens} a video, {millions}{added}{pair}"


def name_data(data: Facts) -> str:
    """Return the name of a benchmark; for custom data, the name of its folder."""
    return Path(data["files"][0]).absolute().parent.name if data["name"] in OWN else str(data["name"])


def describe_missing(data: Facts) -> Iterator[str]:
    """Yield a line about missing videos and one about unreadable videos, if there are any."""
    for kind, reason in (("missing", "missing"), ("failed", "unreadable")):
        if video_ids := list(data[kind]):
            more = f" and {len(video_ids) - NUM_LISTED} more" if len(video_ids) > NUM_LISTED else ""
            listed = ", ".join(video_ids[:NUM_LISTED])
            yield f"{format_count(len(video_ids), 'video')} {reason}, omitted with their rows: {listed}{more}"


def make_tables(report: Facts) -> Iterator[tuple[str, Table]]:
    """Yield the title and the content of each table of a report."""
    results = report["results"]
    domains = results.get("domains", {})
    if "rows" in results:
        main = report["settings"]["metric"]
        yield title_rows("search", results["rows"]), tabulate_rows(results["rows"], main)
        for domain, rows in domains.items():
            yield title_rows(f"search, {domain} only", rows), tabulate_rows(rows, main)
    if "moments" in results:
        yield "moments, each in its own video", tabulate_moments(results["moments"])
        for domain, facts in domains.items():
            yield f"moments, {domain} only", tabulate_moments(facts)
    if "multi_moments" in results:
        yield "several moments of a query", tabulate_multi_moments(results["multi_moments"])
    if "corpus" in results:
        corpus = results["corpus"]
        videos = format_count(corpus["num_videos"], "video") if "num_videos" in corpus else "all videos"
        yield f"moments, each in {videos}", tabulate_corpus(corpus)
        for domain, facts in results.get("corpus_domains", {}).items():
            yield f"moments, {domain} only, each in {videos}", tabulate_corpus(facts)
    if "rated" in results:
        facts = results["rated"]
        columns = ["minimum IoU", *next(iter(facts["nDCG"].values()))]
        lines = [[least, *(f"{value:.1f}" for value in gains.values())] for least, gains in facts["nDCG"].items()]
        queries, videos = format_count(facts["num_queries"], "query"), format_count(facts["num_videos"], "video")
        yield f"rated moments: {queries}, each in {videos}", (columns, lines)
    if "composed" in results:
        facts = results["composed"]
        names = [name for name in facts if name not in ("num_queries", "gallery_size")]
        lines = [[asked, *(f"{results[kind][name]:.1f}" for name in names)] for kind, asked in QUERIES.items()]
        queries, videos = format_count(facts["num_queries"], "query"), format_count(facts["gallery_size"], "video")
        yield f"a frame and a text: {queries}, {videos}", (["query", *names], lines)
    if "kinds" in results:
        title = f"queries by kind, each in {format_count(results['num_videos'], 'video')}"
        if "kinds_unjudged" in results:
            judge, failed = report["settings"]["judge"], results["num_judge_failed"]
            yield f"{title}, without a judge", tabulate_kinds(results["kinds_unjudged"])
            title += f", judged by {judge}" + (f" ({failed} not judged, since it failed)" if failed else "")
        yield title, tabulate_kinds(results["kinds"])
    if "known_items" in results:
        title = f"known items by the rank that the text leaves, each in {format_count(results['num_videos'], 'video')}"
        yield title, tabulate_known_items(results["known_items"])
    if "highlights" in results:
        yield "highlights", tabulate_highlights(results["highlights"])


def title_rows(name: str, rows: Sequence[Facts]) -> str:
    """Return a table's title with the number of queries and the size of the gallery."""
    return (
        f"{name}: {format_count(rows[0]['num_queries'], 'caption')}, {format_count(rows[0]['gallery_size'], 'video')}"
    )


def tabulate_rows(rows: Sequence[Facts], main: str = "R@1") -> Table:
    """Return one line per row, text to video first, each followed by its bounds if ties make them differ.

    The main score of the protocol is the first one.
    """
    trivial = [f"R@{k}" for k in CUTS if k >= rows[0]["gallery_size"] and k > 10]  # always 100
    names = [name for name in dict.fromkeys((main, *RETRIEVAL)) if name in rows[0] and name not in trivial]
    corrected = any(row["bank"] for row in rows)
    lines = []
    for row in sorted(rows, key=lambda row: list(DIRECTIONS).index(row["direction"])):
        values = (f"{row[name]:.1f}" for name in names)
        lines.append([DIRECTIONS[row["direction"]], row["label"], *values, row["bank"] or ""])
        lines += [
            ["", f"  {bound} ties", *(f"{row[bound][name]:.1f}" for name in names), ""]
            for bound in ("optimistic", "pessimistic")
            if bound in row and any(f"{row[bound][name]:.1f}" != f"{row[name]:.1f}" for name in names)
        ]
    if corrected:
        return ["direction", "scores", *names, "bank"], lines
    return ["direction", "scores", *names], [line[:-1] for line in lines]


def tabulate_moments(facts: Facts) -> Table:
    """Return a line for all queries, and one for each length range of true spans."""
    labels = {"full": "all"}
    labels |= {name: f"{name} ({_describe_range(*ends)})" for name, ends in facts["lengths"].items()}
    lines = [
        [
            labels[name],
            str(metrics["num_queries"]),
            *(f"{metrics['R1'][threshold]:.1f}" for threshold in ("0.3", "0.5", "0.7")),
            *(f"{value:.1f}" for value in (metrics["R5"]["0.5"], metrics["mIoU"])),
            *(f"{metrics['mAP'][threshold]:.1f}" for threshold in ("0.5", "0.75", "average")),
        ]
        for name, metrics in facts.items()
        if name in labels and metrics is not None
    ]
    recalls = ("R1@0.3", "R1@0.5", "R1@0.7", "R5@0.5")
    return ["true spans", "queries", *recalls, "mIoU", "mAP@0.5", "mAP@0.75", "mAP"], lines


def _describe_range(low: float, high: float | None) -> str:
    return f"over {low:g} s" if high is None else f"to {high:g} s" if not low else f"{low:g} to {high:g} s"


def tabulate_multi_moments(facts: Facts) -> Table:
    """Return one line: recalls and overlaps of the first predictions, and precisions by the number of true spans."""
    names = [name for name in facts if name.startswith(("mR@", "mIoU@"))]
    values = {name: facts[name] for name in names}
    values |= {f"mAP, {count} true": value for count, value in facts["mAP"].items()} | {"G-mAP": facts["G-mAP"]}
    return list(values), [["-" if value is None else f"{value:.1f}" for value in values.values()]]


def tabulate_corpus(facts: Facts) -> Table:
    """Return the recalls of moments, of spans within the correct video, and of videos."""
    rows = [
        (f"{description} ({task})", threshold, recalls)
        for task, description in CORPUS.items()
        for threshold, recalls in facts[task].items()
    ]
    rows += [("correct video (VR)", "", facts["VR"]), ("correct video, by a search (PRVR)", "", facts["PRVR"])]
    names = [*facts["VR"], "SumR"]
    columns = ["task", "IoU", *(name if name == "SumR" else f"R@{name[1:]}" for name in names)]
    return columns, [
        [task, threshold, *(f"{recalls[name]:.1f}" if name in recalls else "" for name in names)]
        for task, threshold, recalls in rows
    ]


def tabulate_kinds(rows: Sequence[Facts]) -> Table:
    """Return a line for each kind of query, one for all with an answer, and then those of absent queries."""
    answerable = {row["kind"] for row in rows if row["answerable"]}
    lines = []
    for row in rows:
        kind = "all with an answer" if row["kind"] is None else row["kind"]
        if not row["answerable"] and kind in answerable:
            kind = f"{kind} (absent)"
        values = (f"{row[name]:.1f}" if name in row else "" for name in BY_KIND)
        auc = row.get("AUC")
        lines.append([kind, str(row["num_queries"]), *values, "" if auc is None else f"{auc:.3f}"])
    return ["kind", "queries", *BY_KIND, "AUC"], lines


def tabulate_known_items(rows: Sequence[Facts]) -> Table:
    """Return a line for each band: median ranks by text and after each round, the share found, and points."""
    rounds = [f"round {step}" for step in range(len(rows[0]["ranks"]))]
    lines = [
        [
            row["band"],
            str(row["num_tasks"]),
            *(f"{rank:g}" for rank in (row["text_rank"], *row["ranks"])),
            *(f"{value:.1f}" for value in (row["found"][0], row["found"][-1], row["paging"])),
            f"{row['points']:.0f}",
        ]
        for row in rows
    ]
    return ["rank", "tasks", "text only", *rounds, "found at once", "found", "paging", "points"], lines


def tabulate_highlights(facts: Facts) -> Table:
    """Return one line per rating level, or per domain."""
    if "mAP" in facts:
        counts = facts["num_videos"]
        lines = [[name, str(counts.get(name, "")), f"{value:.1f}"] for name, value in facts["mAP"].items()]
        return ["", "videos", "mAP"], lines
    levels = {name: metrics for name, metrics in facts.items() if isinstance(metrics, Mapping)}
    lines = [
        [name, f"{metrics['mAP']:.1f}", f"{metrics['Hit1']:.1f}", f"{metrics['mAP_ceiling']:.1f}"]
        for name, metrics in levels.items()
    ]
    return ["level", "mAP", "HIT@1", "highest mAP possible"], lines


def tabulate_comparison(rows: Sequence[Facts]) -> Table:
    """Return one line per metric: both means, their difference with its interval, and a verdict."""
    lines = [
        [
            row["metric"],
            f"{row['first']:.1f}",
            f"{row['second']:.1f}",
            f"{row['difference']:+.1f}",
            f"{row['low']:+.1f} to {row['high']:+.1f}",
            VERDICTS[row["better"]],
        ]
        for row in rows
    ]
    return ["metric", "first", "second", "difference", "95 % interval", "verdict"], lines
