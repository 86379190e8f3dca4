"""Train, index, search, locate and evaluate every method on the synthetic world, and write one page about it.

    python tools/pipeline.py OUT [--minutes 60] [--seeds 0 1 2]

Every step is a command that a user could type; it is printed, and its output goes to OUT/logs. A step that has ended
with the same command is skipped, so an interrupted run goes on where it stopped. ``--minutes`` scales the number of
videos. Seven tenths of it are for training, in equal time for each method: a step of each is timed first, and
OUT/plan.json keeps how many there are. It is an estimate, not a limit. OUT/index.html has the table, with 95 %
intervals over the seeds, and links to the reports of all evaluations, with their curves and timelines.

``clip, reranked`` is scored by UCoFiA's levels without training. ``clip after B`` went on to train on a second, small
world, and is measured on both: what fine-tuning forgets, and what it learns. ``clip, half of B`` and ``clip, 0.3 of B``
are averages of the weights before and after, with that share of those after, which protect what was known.
"""

import json
import shlex
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]
from bench_train import build, make_step
from harness import draw_batch, make_parser, take_turns, tell
from scipy.stats import t

from vidret.present.html import STYLE, escape_text, render_table
from vidret.text import format_time

TOOLS = Path(__file__).parent
CONFIGS = TOOLS.parent / "configs"
METHODS = ("clip", "tempme", "promptswitch", "ucofia", "joint")
AFTER, RERANKED = "clip after B", "clip, reranked"
AVERAGED = {"clip, half of B": 0.5, "clip, 0.3 of B": 0.3}
# At 60 minutes and three seeds, on two cores.
FULL_MINUTES, FULL_SEEDS = 60.0, 3
HEAD_STEPS = 1500
TRAINING_SHARE, START_S = 0.7, 8.0  # of the time; seconds until a command takes its first step
OVERHEAD = 1.3  # of a step in training, with its data, relative to a timed one
SHARE_ON_B = 1 / 3  # of the steps on world A
NUM_TIMED = 3
SHORT, SHORT_B, FILMS = (4000, 200, 400), (200, 40, 400), (200, 20, 40)
# The commands of vidret; what is in braces differs between steps.
TRAIN = """train fit --config {configs}/synthetic_{config}.yaml --seed_everything {seed}
    --trainer.max_steps {num_steps} --trainer.max_epochs -1 --trainer.logger false --trainer.enable_progress_bar false
    --trainer.default_root_dir {out}/runs/{output.stem} --trainer.callbacks null --trainer.limit_val_batches 0
    --model.init_args.seed {seed} --model.init_args.out {output} --data.init_args.annotations {world}/msrvtt
    --data.init_args.videos {world}/msrvtt --data.init_args.cache {world}/cache"""  # nothing is chosen on validation
ON_CLIP = " --model.init_args.weights {clip} --model.init_args.vision null --model.init_args.text null"
AVERAGE = "convert {clip} {output} --from vidret --average {after} --weight {weight}"
EVALUATE = (
    "eval msrvtt --videos {world}/msrvtt --annotations {world}/msrvtt --model {model} --out {output.parent} --html"
)
INDEX_FILMS = "index {films}/videos --index {index} --model {clip} --words off"
TRAIN_HEAD = """train head --index {index} --moments {films}/highlight_train_release.jsonl --out {output} --seed {seed}
    --steps {num_steps}"""
LOCATE = "eval moments --data moments --videos {films} --index {index} --head {head} --out {output.parent} --html"
PICTURES = {
    "search": "search {query} --index {out}/eval/joint-{seed}/index --sheet {output}",
    "locate": "locate {query} --index {out}/films/seed-{seed} --curve {output} --weak",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One command, and the file or folder that it writes."""

    name: str
    command: Sequence[str]
    output: Path
    needs: Path | None = None  # skipped, and said so, if this is missing


@dataclass(frozen=True, slots=True)
class Plan:
    """The folder of a run, its seeds, the scale of its videos, and the steps of each method's training."""

    out: Path
    seeds: Sequence[int]
    scale: float
    steps: Mapping[str, int] = field(default_factory=dict)

    def count(self, full: int, least: int = 4) -> int:
        """Return a number of steps or videos at this scale; even, as the world wants it."""
        return max(least, round(full * self.scale / 2) * 2)

    def model(self, name: str, seed: int) -> Path:
        """Return the file of a trained model."""
        return self.out / "models" / f"{name.replace(', ', ' ').replace(' ', '-')}-{seed}.safetensors"

    def report(self, name: str, seed: int) -> Path:
        """Return the report of an evaluation."""
        return self.out / "eval" / self.model(name, seed).stem / "report.json"

    def step(self, name: str, command: str, output: Path, needs: Path | None = None, **values: object) -> Step:
        """Return a step of a command of vidret, from the environment of this Python, with values for its braces."""
        values |= {"out": self.out, "configs": CONFIGS, "output": output}
        words = [word.format(**values) for word in command.split()]
        return Step(name, [str(Path(sys.executable).parent / "vidret"), *words], output, needs)


def plan_steps(plan: Plan) -> Iterator[Step]:
    """Yield all steps in order."""
    for name, seed, short, films in (("a", 0, SHORT, FILMS), ("b", 1, SHORT_B, (1, 1, 1))):
        command = [sys.executable, str(TOOLS / "make_synthetic.py"), str(plan.out / name), "--seed", str(seed)]
        command += ["--short", *(str(plan.count(num_videos, 40)) for num_videos in short)]
        command += ["--films", *(str(plan.count(num_films, 4)) for num_films in films), "--size", "64", "64"]
        yield Step(f"world {name}", command, plan.out / name / "qvhighlights")
    for seed in plan.seeds:
        yield from plan_retrieval(plan, seed)
        yield from plan_moments(plan, seed)
    for name, query in (("search", "a red circle"), ("locate", "a red circle moves")):
        picture = plan.out / "pictures" / f"{name}.png"
        yield plan.step(name, PICTURES[name], picture, query=query, seed=plan.seeds[0])


def plan_retrieval(plan: Plan, seed: int) -> Iterator[Step]:
    """Yield the training and the evaluation of all models of a seed."""
    clip, after, a, b = plan.model("clip", seed), plan.model(AFTER, seed), plan.out / "a", plan.out / "b"

    def train(name: str, command: str, world: Path, num_steps: int, config: str) -> Step:
        values: dict[str, Any] = {"config": config, "seed": seed, "num_steps": num_steps, "world": world, "clip": clip}
        return plan.step(f"train {name}, seed {seed}", command, plan.model(name, seed), **values)

    def evaluate(name: str, world: Path, model: str, command: str = EVALUATE) -> Step:
        report, weights = plan.report(name, seed), plan.model(model, seed)
        return plan.step(f"evaluate {name}, seed {seed}", command, report, world=world, model=weights)

    for method in METHODS:
        command = TRAIN + ON_CLIP if method == "ucofia" else TRAIN
        yield train(method, command, a, plan.steps.get(method, 1), method)
        yield evaluate(method, a, method)
    yield evaluate(RERANKED, a, "clip", f"{EVALUATE} --rerank ucofia")
    yield train(AFTER, TRAIN + ON_CLIP, b, max(1, round(SHARE_ON_B * plan.steps.get("clip", 1))), "clip")
    for name, weight in AVERAGED.items():
        values: dict[str, Any] = {"clip": clip, "after": after, "weight": weight}
        yield plan.step(f"average {name}, seed {seed}", AVERAGE, plan.model(name, seed), **values)
    yield from (evaluate(name, a, name) for name in (AFTER, *AVERAGED))
    yield from (evaluate(on_b(name), b, name) for name in ("clip", AFTER, *AVERAGED))


def on_b(name: str) -> str:
    """Return the name of what a model scores on world B."""
    return f"{name} on world B"


def plan_moments(plan: Plan, seed: int) -> Iterator[Step]:
    """Yield the index of films, the head on it, and both ways to locate moments."""
    films, index, head = plan.out / "a" / "qvhighlights", plan.out / "films" / f"seed-{seed}", plan.model("head", seed)
    values: dict[str, Any] = {"films": films, "index": index, "clip": plan.model("clip", seed), "seed": seed}
    yield plan.step(f"index films, seed {seed}", INDEX_FILMS, index, **values)
    yield plan.step(f"train head, seed {seed}", TRAIN_HEAD, head, num_steps=plan.count(HEAD_STEPS, 50), **values)
    yield plan.step(f"locate with curve, seed {seed}", LOCATE, plan.report("curve", seed), head="none", **values)
    # No head is kept that loses to the curve.
    yield plan.step(f"locate with head, seed {seed}", LOCATE, plan.report("head", seed), head, head=head, **values)


def count_steps(out: Path, minutes: float, seeds: Sequence[int]) -> dict[str, int]:
    """Return how many steps each method makes in its share of the time; OUT/plan.json keeps them for a resumed run.

    Raises:
        SystemExit: A run with other settings began in this folder. Some of its results would pass for this one's.
    """
    kept, settings = out / "plan.json", {"minutes": minutes, "seeds": list(seeds)}
    if kept.is_file():
        stored_plan: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        if (begun := {name: stored_plan.get(name) for name in settings}) != settings:
            raise SystemExit(f"{out} must have been begun with {settings}, got {begun}: choose another folder")
        return dict(stored_plan["steps"])
    share_s = TRAINING_SHARE * 60 * minutes / len(seeds) / (len(METHODS) + SHARE_ON_B) - START_S
    steps = dict[str, int]()
    for method in METHODS:
        step_s = time_step(CONFIGS / f"synthetic_{method}.yaml")
        steps[method] = max(4, int(share_s / (OVERHEAD * step_s)))
        tell(f"a step of {method} takes {step_s:.2f} s: {steps[method]} steps for each seed")
    out.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({**settings, "steps": steps}), "utf-8")
    return steps


def time_step(config: Path) -> float:
    """Return the seconds of a training step of a configuration on random frames, the median of a few."""
    read = yaml.safe_load(config.read_text("utf-8"))
    settings, module = read["model"]["init_args"], build(read)
    batch = draw_batch(
        read["data"]["init_args"]["batch_size"], settings["num_frames"], settings["vision"]["image_size"], 20
    )
    rule, half = module.method.recipe.for_all(None).rule, "bf16" in read["trainer"].get("precision", "")
    return take_turns({"step": make_step(module, batch, rule, half=half)}, NUM_TIMED)["step"].wall_s


def run_steps(steps: Sequence[Step], logs: Path) -> list[str]:
    """Run the steps that are not done; return what failed and why; the others go on.

    Progress goes to stderr. A failed step leaves its log.
    """
    failed: list[str] = []
    waiting = [step for step in steps if not is_done(step, logs)]
    logs.mkdir(parents=True, exist_ok=True)
    tell(f"{len(steps) - len(waiting)} of {len(steps)} steps are done already")
    for step_index, step in enumerate(waiting, 1):
        tell(f"[{step_index}/{len(waiting)}] {step.name}: {shlex.join(step.command)}")
        step.output.parent.mkdir(parents=True, exist_ok=True)
        if step.needs is not None and not step.needs.exists():
            failed.append(f"{step.name}: skipped, for there is no {step.needs}")
            tell(failed[-1])
            continue
        log = locate_log(step, logs)
        with log.open("w", encoding="utf-8") as stream:
            code = subprocess.run(step.command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
        if code or not step.output.exists():
            lines = log.read_text("utf-8", errors="replace").strip().splitlines()
            failed.append(f"{step.name}: {lines[-1] if lines else f'exit code {code}'} ({log})")
            tell(f"failed with code {code}: {failed[-1]}")
        else:
            log.with_suffix(".done").write_text(shlex.join(step.command), "utf-8")
    return failed


def is_done(step: Step, logs: Path) -> bool:
    """Return whether the step ended with this very command, and what it wrote is still there."""
    mark = locate_log(step, logs).with_suffix(".done")
    return step.output.exists() and mark.is_file() and mark.read_text("utf-8") == shlex.join(step.command)


def locate_log(step: Step, logs: Path) -> Path:
    """Return the file of a step's output."""
    return logs / f"{step.name.replace(', ', '-').replace(' ', '-')}.log"


def read_scores(plan: Plan, names: Sequence[str], read: Callable[[Any], Any]) -> dict[str, list[Any]]:
    """Return what is read from the results of each name and seed for which there is a report."""
    paths = {name: [plan.report(name, seed) for seed in plan.seeds] for name in names}
    found = {
        name: [read(json.loads(path.read_text("utf-8"))["results"]) for path in report_paths if path.is_file()]
        for name, report_paths in paths.items()
    }
    return {name: scores for name, scores in found.items() if scores}


def read_recall(results: Any) -> dict[str, float]:
    """Return the numbers of finding videos by texts."""
    return next(row for row in results["rows"] if row["direction"] == "t2v")


def read_moments(results: Any) -> dict[str, float]:
    """Return the numbers of locating moments."""
    full = results["moments"]["full"]
    return {**{f"R1@{limit}": full["R1"][limit] for limit in ("0.5", "0.7")}, "mIoU": full["mIoU"]}


def describe_mean(values: Sequence[float]) -> str:
    """Return the mean, and half of Student's 95 % interval if there are several values."""
    mean = f"{np.mean(values):.1f}"
    if len(values) < 2:
        return mean
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean} ± {t.ppf(0.975, len(values) - 1) * error:.1f}"


def tabulate(scores: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[str]) -> str:
    """Return a table in HTML with a line per model."""
    lines = [
        [name, str(len(rows)), *(describe_mean([row[metric] for row in rows]) for metric in metrics)]
        for name, rows in scores.items()
    ]
    return render_table((["", "seeds", *metrics], lines))


def write_page(plan: Plan, failed: Sequence[str], seconds: float) -> Path:
    """Write the page, of what there is, and return its path."""
    recalls, shares = ["R@1", "R@5", "R@10", "MnR"], ["R1@0.5", "R1@0.7", "mIoU"]
    names = {"A": (*METHODS, RERANKED, AFTER, *AVERAGED), "B": [on_b(name) for name in ("clip", AFTER, *AVERAGED)]}
    tables = [
        (f"Text to video, test split of world {world}", read_scores(plan, world_names, read_recall), recalls)
        for world, world_names in names.items()
    ]
    tables.append(("Moments in held-out films", read_scores(plan, ("curve", "head"), read_moments), shares))
    num_train, gallery = (plan.count(SHORT[place], 40) for place in (0, 2))
    steps = ", ".join(f"{name} {count}" for name, count in plan.steps.items())
    facts = f"{num_train:,} videos to train on, a gallery of {gallery}. Steps in equal time: {steps}. "
    parts = ["<h1>The whole pipeline on the synthetic world</h1>"]
    parts.append(f'<p class="facts">{facts}This run took {format_time(seconds)}.</p>')
    parts += [f'<p class="note">Not done: {escape_text(name)}</p>' for name in failed]
    parts += [f"<h2>{title}</h2>{tabulate(scores, metrics)}" for title, scores, metrics in tables if scores]
    parts.append("<h2>Reports, with curves and timelines</h2>")
    for path in sorted(plan.out.glob("eval/*/report.html")):
        name = path.parent.name
        parts.append(f'<p class="facts"><a href="eval/{name}/report.html">{escape_text(name)}</a></p>')
    for picture in sorted((plan.out / "pictures").glob("*.png")):
        data = b64encode(picture.read_bytes()).decode()
        parts.append(f'<h2>{picture.stem.title()}</h2><img style="max-width:100%" src="data:image/png;base64,{data}">')
    page = plan.out / "index.html"
    head = f'<meta charset="utf-8"><title>vidret: the whole pipeline</title><style>{STYLE}</style>'
    page.write_text(f"<!DOCTYPE html>\n<html lang=en><head>{head}</head><body><main>{''.join(parts)}</main></body>\n")
    return page


def main() -> None:
    """Run the steps and write the page."""
    parser = make_parser(__doc__, minutes=FULL_MINUTES, seeds=[0, 1, 2])
    parser.add_argument("out", type=Path, nargs="?", default=Path("pipeline"))
    given = parser.parse_args()
    if given.minutes <= 0:
        parser.error(f"--minutes must be positive, got {given.minutes:g}")
    scale, started = given.minutes / FULL_MINUTES * FULL_SEEDS / len(given.seeds), time.monotonic()
    plan = Plan(given.out, given.seeds, scale, count_steps(given.out, given.minutes, given.seeds))
    failed = run_steps(list(plan_steps(plan)), plan.out / "logs")
    print(write_page(plan, failed, time.monotonic() - started))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
