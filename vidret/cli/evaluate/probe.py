"""The command ``vidret eval probe``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vidret.cli.evaluate.benchmarks import group
from vidret.cli.evaluate.steps import DATA
from vidret.cli.opening import choose_model
from vidret.cli.options import OUTPUT, DeviceOption, JsonOption, PrecisionOption, ProbedModelOption, argument, option
from vidret.present.progress import show_count
from vidret.present.show import print_json, show_table
from vidret.present.terminal import print_message

if TYPE_CHECKING:
    from vidret.corpus.probe import ProbeReport

SYNTHETIC = "synthetic"
WorldArgument = Annotated[
    str,
    argument(
        "Folder with videos and their captions.jsonl, or synthetic for rendered videos.", "FOLDER|synthetic", panel=DATA
    ),
]
ProbePageOption = Annotated[Path | None, option("Also write a page that says where to trust it.", OUTPUT, "FILE")]
ProbeSeedOption = Annotated[int, option("Seed of the videos that are drawn.", DATA, "N", min=0)]


@group.command("probe")
def probe_command(
    world: WorldArgument,
    model: ProbedModelOption = None,
    seed: ProbeSeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    html: ProbePageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find out where an encoder can be trusted: minimal pairs, corruptions, and 'nothing matches well'."""
    from vidret.corpus.probe import probe_encoder, report_to_dict
    from vidret.corpus.probe_page import write_probe_page
    from vidret.corpus.probe_world import draw_probe_world, read_probe_world
    from vidret.encode.families.registry import load_encoder
    from vidret.encode.names import STARTER

    encoder = load_encoder(choose_model(model) or STARTER, device=device, precision=precision)
    if world == SYNTHETIC:
        videos = draw_probe_world(encoder.resize.crop, seed=seed)
    else:
        with show_count("reading", "videos") as on_count:
            videos = read_probe_world(Path(world), encoder.resize, seed=seed, on_progress=on_count)
    with show_count("encoding", "videos") as on_count:
        report = probe_encoder(encoder, videos, seed=seed, on_progress=on_count)
    for note in report.notes:
        print_message(f"note: {note}")
    if as_json:
        print_json(report_to_dict(report))
    else:
        show_probe(report)
    if html is not None:
        write_probe_page(report, html)
        print_message(f"page: {html}")


def show_probe(report: "ProbeReport") -> None:
    """Print the results in words, and the tables behind them."""
    from vidret.corpus.probe_page import explain_report, tabulate_corruptions, tabulate_pairs

    for line in explain_report(report):
        print(line)
    for title, table in (
        ("Minimal pairs, percent right (50 is chance)", tabulate_pairs(report)),
        ("By rule", tabulate_pairs(report, by_rule=True)),
        ("Corrupted videos, percent recognised by their originals and by their captions", tabulate_corruptions(report)),
    ):
        print(f"\n{title}")
        show_table(*table)
