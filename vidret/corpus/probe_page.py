"""The results of probes in words, and as one HTML page."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from vidret.corpus.minimal_pairs import CORRUPTIONS, NUM_STRENGTHS, ProbeKind
from vidret.corpus.probe import AbsenceResult, CorruptionResult, PairResult, ProbeReport
from vidret.corpus.significance import MIN_TRIALS, Verdict
from vidret.present.html import Table, escape_text, render_table, write_document

HELD = 90.0  # percent of corrupted videos that are nearest to their originals
# The question that each kind of pair asks the encoder.
QUESTIONS: Mapping[ProbeKind, str] = {
    "attribute swap": "which thing has which colour, texture or shape",
    "relation swap": "which thing is left of, above or inside which",
    "word order": "that words in another order mean something else",
    "negation": "that something is not there",
    "counting": "how many things there are",
    "order in time": "what comes first, and in which direction things go",
    "background swap": "what is shown, whatever it is shown in front of",
}
ANSWERS: Mapping[Verdict, str] = {
    "trusted": "can be trusted",
    "better than chance": "better than chance, and often wrong",
    "chance": "no better than chance",
    "misled": "misled: prefers the wrong text",
    "too few": f"too few pairs for a claim: {MIN_TRIALS} are needed",
}
STYLE = """
.trusted { border-left: 5px solid var(--right); } .misled { border-left: 5px solid var(--second); }
.chance, .too { border-left: 5px solid var(--line); } .better { border-left: 5px solid var(--found); }
.pair { margin: 4px 0 0; }
.heat td, .heat th { text-align: right; padding: 4px 12px; }
.heat td:last-child { text-align: left; }
.heat .cell { background: color-mix(in srgb, var(--right) calc(var(--share) * 55%), var(--card)); }
"""


def explain_report(report: ProbeReport) -> Iterator[str]:
    """Yield sentences that say where an encoder can be trusted."""
    verdicts: dict[Verdict, list[str]] = {}
    for kind in report.kinds:
        verdicts.setdefault(kind.accuracy.verdict, []).append(f"{kind.kind} ({kind.accuracy.percent:.0f} %)")
    for verdict, answer in ANSWERS.items():
        if verdict in verdicts:
            yield f"{answer[0].upper()}{answer[1:]}: {', '.join(verdicts[verdict])}."
    if report.missing:
        yield f"Not tested, for want of a caption that a rule applies to: {', '.join(report.missing)}."
    yield (
        f"A caption's own video scores higher than {report.text_score:.0f} % of the other {report.num_videos - 1} "
        "videos (50 is chance)."
    )
    yield from map(explain_corruption, report.corruptions)
    if report.absence is None:
        yield "Whether it knows that nothing matches was not tested: 4 videos are needed."
    else:
        yield explain_absence(report.absence)


def explain_corruption(result: CorruptionResult) -> str:
    """Return a sentence that says up to which strength a corruption is tolerated."""
    held = next((index for index, value in enumerate(result.found) if value < HELD), NUM_STRENGTHS)
    levels = result.levels
    name = f"{result.name[0].upper()}{result.name[1:]}"
    if held == NUM_STRENGTHS:
        return f"{name} hardly matters, up to strength {NUM_STRENGTHS} of {NUM_STRENGTHS} ({levels[-1]:g})."
    if held == 0:
        return (
            f"{name} matters even at strength 1 ({levels[0]:g}): {result.found[0]:.0f} % of the videos are recognised."
        )
    return (
        f"{name} is tolerated up to strength {held} of {NUM_STRENGTHS} ({levels[held - 1]:g}); "
        f"at strength {held + 1}, {result.found[held]:.0f} % of the videos are recognised."
    )


def explain_absence(result: AbsenceResult) -> str:
    """Return a sentence that says whether 'nothing matches well' can be trusted."""
    trust = "cannot" if result.p_value >= 0.05 or result.auroc <= 0.5 else "can" if result.auroc > 0.9 else "can hardly"
    few = f"Whether 'nothing matches well' can be trusted needs {MIN_TRIALS} queries"
    verdict = few if result.num_queries < MIN_TRIALS else f"'Nothing matches well' {trust} be trusted"
    return (
        f"{verdict}: AUROC {result.auroc:.2f} over {result.num_queries} queries; it is said for {result.refused:.0f} % "
        f"of those without an answer and {100 - result.kept:.0f} % of those with one "
        f"(calibration error {result.calibration_error:.2f})."
    )


def tabulate_pairs(report: ProbeReport, *, by_rule: bool = False) -> Table:
    """Return a line for each kind of pair, or for each rule."""
    lines = []
    for kind in report.rules if by_rule else report.kinds:
        accuracy = kind.accuracy
        interval = f"{accuracy.low:.0f} to {accuracy.high:.0f}"
        name = [kind.kind, *([kind.rule or ""] if by_rule else [])]
        numbers = [str(accuracy.num_trials), f"{accuracy.percent:.1f}", interval]
        lines.append([*name, *numbers, ANSWERS[accuracy.verdict]])
    names = ["kind", *(["what"] if by_rule else []), "pairs", "right", "95 %", "verdict"]
    return names, lines


def tabulate_corruptions(report: ProbeReport) -> Table:
    """Return the percentage of videos recognised at each strength of each corruption."""
    lines = [
        [
            corruption.name,
            *(f"{value:.0f}" for value in corruption.found),
            *(f"{value:.0f}" for value in corruption.text),
        ]
        for corruption in report.corruptions
    ]
    strengths = range(1, NUM_STRENGTHS + 1)
    return [
        "kind",
        *(f"seen {strength}" for strength in strengths),
        *(f"text {strength}" for strength in strengths),
    ], lines


def write_probe_page(report: ProbeReport, out: Path) -> None:
    """Write a report as one self-contained HTML file; raise VidretError if it cannot be written."""
    title = f"Where {report.encoder} can be trusted"
    sections = [
        f"<h1>{escape_text(title)}</h1>",
        f'<p class="facts">Probed on {report.num_videos} videos: {escape_text(report.world)}.</p>',
        "<ul>" + "".join(f"<li>{escape_text(line)}</li>" for line in explain_report(report)) + "</ul>",
        *(f'<p class="note">{escape_text(note)}</p>' for note in report.notes),
        "<h2>Minimal pairs</h2>",
        '<p class="facts">A right and a wrong text that differ in one respect; the right one must score higher with '
        "the video. 50 % is chance.</p>",
        *(render_kind(kind, report) for kind in report.kinds),
        "<h2>Corruptions</h2>",
        f'<p class="facts">Percentage of {report.num_corrupted} corrupted videos that are nearest to their own '
        "originals, from the weakest to the strongest of five strengths.</p>",
        render_heat(report, by_text=False),
        '<p class="facts">Percentage of other videos that score lower than a caption\'s own video, which is corrupted; '
        "50 is chance.</p>",
        render_heat(report, by_text=True),
        *render_absence(report.absence),
    ]
    write_document(title, sections, out, style=STYLE)


def render_kind(result: PairResult, report: ProbeReport) -> str:
    """Return the question, the verdict, and each rule with an example."""
    accuracy = result.accuracy
    facts = (
        f"{accuracy.percent:.1f} % of {accuracy.num_trials} (95 %: {accuracy.low:.0f} to {accuracy.high:.0f}), "
        f"{ANSWERS[accuracy.verdict]}"
    )
    rules = "".join(
        f'<p class="pair">{escape_text(rule.rule or "")}, {rule.accuracy.percent:.0f} % of {rule.accuracy.num_trials}: '
        f"<q>{escape_text(rule.example.right)}</q>, not <q>{escape_text(rule.example.wrong)}</q></p>"
        for rule in report.rules
        if rule.kind == result.kind
    )
    heading = f"<h3>{escape_text(result.kind)}: {escape_text(QUESTIONS[result.kind])}</h3>"
    kind = accuracy.verdict.split()[0]
    return f'<article class="{kind}">{heading}<p class="facts">{escape_text(facts)}</p>{rules}</article>'


def render_heat(report: ProbeReport, *, by_text: bool) -> str:
    """Return a table of corruptions by strength; chance of the texts is the palest, 100 % the darkest cell."""
    rows = []
    for result in report.corruptions:
        corruption = CORRUPTIONS[result.name]
        cells = "".join(
            f'<td class="cell" style="--share:{max(0.0, 2 * value / 100 - 1) if by_text else value / 100:.2f}" '
            f'title="{level:g}">{value:.0f}</td>'
            for value, level in zip(result.text if by_text else result.found, corruption.levels, strict=True)
        )
        levels = " / ".join(f"{level:g}" for level in corruption.levels)
        name = f'{escape_text(result.name)} <span class="facts">{escape_text(corruption.meaning)}: {levels}</span>'
        rows.append(f"<tr>{cells}<td>{name}</td></tr>")
    heads = "".join(f"<th>{strength}</th>" for strength in range(1, NUM_STRENGTHS + 1))
    return (
        f'<div class="wide"><table class="heat"><thead><tr>{heads}<th></th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def render_absence(result: AbsenceResult | None) -> Iterator[str]:
    """Yield the reliability of 'nothing matches well'."""
    yield "<h2>Nothing matches well</h2>"
    if result is None:
        yield '<p class="note">Not tested: 4 videos are needed.</p>'
        return
    yield f'<p class="facts">{escape_text(explain_absence(result))}</p>'
    yield (
        '<p class="facts">Confidence is the share of unrelated queries with a lower best score. Half of all queries '
        "have an answer.</p>"
    )
    lines = [[f"{bin_.confidence:.2f}", f"{100 * bin_.share:.0f} %", str(bin_.num_answers)] for bin_ in result.bins]
    yield render_table((("mean confidence", "have an answer", "queries"), lines))
