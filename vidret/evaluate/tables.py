"""Reports as lines of text: the protocol first, then the numbers that people compare."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidret.metrics.retrieval import CUTS
from vidret.text import format_time

Table = tuple[Sequence[str], list[list[str]]]
Facts = Mapping[str, Any]
OWN = ("captions", "moments")
NAMED = 5  # of the missing videos

WAYS = {"t2v": "text to video", "v2t": "video to text"}
RETRIEVAL = ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR")
CORPUS = {"VCMR": "right span of the right video", "SVMR": "right span, among those of the right video"}
BEST = {"first": "first is better", "second": "second is better", "neither": "may be luck"}


def tell_report(report: Facts) -> Iterator[str]:
    """Say what the numbers are of: data, model, how long it took, what is missing."""
    data, model, settings = report["data"], report["model"], report["settings"]
    yield f"{report['task']} on {name_data(data)} ({', '.join(data['files'])})"
    texts = f"{data['num_captions']} captions" if data["num_captions"] else f"{data['num_queries']} queries"
    yield f"{texts}, {data['num_found']} of {data['num_videos']} videos"
    by = f"scored by {settings['rerank']}" if "rerank" in settings else f"found by {settings.get('by')}"
    yield f"model {model['name']}, segments {model['segments']}, {by}"
    if report["seconds"]:
        yield ", ".join(f"{what} {format_time(seconds)}" for what, seconds in report["seconds"].items())
    yield from tell_missing(data)
    for note in data["notes"]:
        yield f"note: {note}"


def name_data(data: Facts) -> str:
    """Name a benchmark; one's own data by their folder, since all such have one name."""
    return Path(data["files"][0]).absolute().parent.name if data["name"] in OWN else str(data["name"])


def tell_missing(data: Facts) -> Iterator[str]:
    """Name the videos that do not take part."""
    for kind, why in (("missing", "missing"), ("failed", "unreadable")):
        if names := list(data[kind]):
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            yield f"{len(names)} videos {why}, left out with their rows: {', '.join(names[:NAMED])}{more}"


def make_tables(report: Facts) -> Iterator[tuple[str, Table]]:
    """Give the tables of a report, each with its title."""
    results = report["results"]
    domains = results.get("domains", {})
    if "rows" in results:
        yield title_rows("search", results["rows"]), tabulate_rows(results["rows"])
        for domain, rows in domains.items():
            yield title_rows(f"search, {domain} alone", rows), tabulate_rows(rows)
    if "moments" in results:
        yield "moments, each in its own video", tabulate_moments(results["moments"])
        for domain, facts in domains.items():
            yield f"moments, {domain} alone", tabulate_moments(facts)
    if "corpus" in results:
        where = f"{results['corpus']['num_videos']} videos" if "num_videos" in results["corpus"] else "all videos"
        yield f"moments, each in {where}", tabulate_corpus(results["corpus"])
    if "highlights" in results:
        yield "highlights", tabulate_highlights(results["highlights"])


def title_rows(what: str, rows: Sequence[Facts]) -> str:
    """Say how many ask and how many answer."""
    return f"{what}: {rows[0]['num_queries']} captions, {rows[0]['gallery_size']} videos"


def tabulate_rows(rows: Sequence[Facts]) -> Table:
    """Give a line a row, text to video first; the bounds follow where ties make them differ."""
    full = [f"R@{k}" for k in CUTS if k >= rows[0]["gallery_size"] and k > 10]  # where nothing can be missed
    names = [name for name in RETRIEVAL if name in rows[0] and name not in full]
    corrected = any(row["bank"] for row in rows)
    lines = []
    for row in sorted(rows, key=lambda row: list(WAYS).index(row["direction"])):
        lines.append([WAYS[row["direction"]], row["label"], *(f"{row[name]:.1f}" for name in names), row["bank"] or ""])
        lines += [
            ["", f"  if ties are {luck}", *(f"{row[bound][name]:.1f}" for name in names), ""]
            for bound, luck in (("optimistic", "won"), ("pessimistic", "lost"))
            if bound in row and any(f"{row[bound][name]:.1f}" != f"{row[name]:.1f}" for name in names)
        ]
    if corrected:
        return ["direction", "scores", *names, "bank"], lines
    return ["direction", "scores", *names], [line[:-1] for line in lines]


def tabulate_moments(facts: Facts) -> Table:
    """Give the full set, then each length of true spans."""
    ranges = {name: f"{name} ({_range(*ends)})" for name, ends in facts["lengths"].items()}
    lines = [
        [
            {"full": "all", **ranges}[part],
            str(numbers["num_queries"]),
            *(f"{numbers['R1'][threshold]:.1f}" for threshold in ("0.3", "0.5", "0.7")),
            *(f"{value:.1f}" for value in (numbers["R5"]["0.5"], numbers["mIoU"], numbers["mAP"]["average"])),
        ]
        for part, numbers in facts.items()
        if part in ("full", *ranges) and numbers is not None
    ]
    return ["true spans", "queries", "R1@0.3", "R1@0.5", "R1@0.7", "R5@0.5", "mIoU", "mAP"], lines


def _range(low: float, high: float | None) -> str:
    return f"over {low:g} s" if high is None else f"to {high:g} s" if not low else f"{low:g} to {high:g} s"


def tabulate_corpus(facts: Facts) -> Table:
    """Give recalls of moments, of spans within the right video, and of videos."""
    lines = [
        [f"{what} ({kind})", threshold, *(f"{value:.1f}" for value in recalls.values())]
        for kind, what in CORPUS.items()
        for threshold, recalls in facts[kind].items()
    ]
    videos = ["right video (VR)", "", *(f"{value:.1f}" for value in facts["VR"].values())]
    return ["what", "IoU", *(name.replace("R", "R@") for name in facts["VR"])], [*lines, videos]


def tabulate_highlights(facts: Facts) -> Table:
    """Give a line a level, or a line a domain."""
    if "mAP" in facts:
        counts = facts["num_videos"]
        lines = [[name, str(counts.get(name, "")), f"{value:.1f}"] for name, value in facts["mAP"].items()]
        return ["", "videos", "mAP"], lines
    levels = {name: each for name, each in facts.items() if isinstance(each, Mapping)}
    lines = [
        [name, f"{each['mAP']:.1f}", f"{each['Hit1']:.1f}", f"{each['mAP_ceiling']:.1f}"]
        for name, each in levels.items()
    ]
    return ["level", "mAP", "HIT@1", "highest mAP possible"], lines


def tabulate_comparison(rows: Sequence[Facts]) -> Table:
    """Give a line a metric: both means, their difference with its interval, and what to make of it."""
    lines = [
        [
            row["metric"],
            f"{row['first']:.1f}",
            f"{row['second']:.1f}",
            f"{row['difference']:+.1f}",
            f"{row['low']:+.1f} to {row['high']:+.1f}",
            BEST[row["better"]],
        ]
        for row in rows
    ]
    return ["metric", "first", "second", "difference", "95 % interval", "verdict"], lines
