"""The time left, against a simulated clock, and the summary of a merge."""

import json
from pathlib import Path
from random import Random

import pytest
from rich.console import Console

from vidret.index.merging import MergeReport
from vidret.index.options import Progress, Workload
from vidret.present.progress import LOG_INTERVAL_S, RemainingTime, print_merge_summary, show_count, show_progress


def simulate(start_s: float, segment_s: float, seed: int) -> list[tuple[float, float]]:
    """Index files of unknown lengths, two at a time; return the fraction done and the time of each step."""
    random, work, now_s, steps = Random(seed), Workload(), start_s, []
    lengths = [random.randint(1, 40) for _ in range(60)]
    for index, length in enumerate(lengths):
        work.add(str(index), length * random.randint(900, 1100))
    waiting = list(range(len(lengths)))
    opened: dict[int, int] = {}
    while waiting or opened:
        while waiting and len(opened) < 2:
            index = waiting.pop(0)
            opened[index] = lengths[index]
            work.open(str(index), lengths[index], lengths[index])
        index = random.choice(list(opened))
        now_s += segment_s * random.uniform(0.8, 1.2)
        work.advance(str(index))
        opened[index] -= 1
        if not opened[index]:
            del opened[index]
            work.finish(str(index))
        steps.append((work.share(), now_s))
    return steps


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("start_s", [0.0, 30.0])
def test_the_time_left_is_within_a_fifth_from_a_tenth_on(start_s: float, seed: int) -> None:
    """A start of 30 s, a third of the time of all segments, made early estimates four times too long."""
    steps, remaining = simulate(start_s, 0.08, seed), RemainingTime()
    end_s = steps[-1][1]
    for share, now_s in steps:
        left_s = remaining.estimate(share, now_s)
        if share >= 0.1 and end_s - now_s > 1:
            assert left_s == pytest.approx(end_s - now_s, rel=0.2), f"at {share:.0%}"


def test_there_is_no_time_before_there_is_a_speed() -> None:
    remaining = RemainingTime()
    assert [remaining.estimate(share, now) for share, now in ((0.0, 1.0), (0.1, 5.0), (0.1, 6.0))] == [None] * 3
    assert remaining.estimate(0.2, 7.0) == pytest.approx(16.0)
    assert remaining.estimate(1.0, 9.0) == 0.0


def test_lines_of_a_log_have_share_speed_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress() as update:
        for share, elapsed_s in ((0.1, 5.0), (0.5, LOG_INTERVAL_S + 15)):
            update(Progress(8, 4, 1, 40, 100.0, share, elapsed_s))
    assert capsys.readouterr().err == " 50% 4/8 files, 1 failed, 4x real time, 0:25.0 left\n"
    for video_s, speed in (
        (0.0, ""),
        (0.4, ", 0.04x real time"),
        (15.0, ", 1.5x real time"),
        (1230.0, ", 123x real time"),
    ):
        with show_progress() as update:
            update(Progress(8, 4, 0, 40, video_s, 1.0, LOG_INTERVAL_S))
        assert capsys.readouterr().err == f"100% 4/8 files{speed}, 0:00.0 left\n"


def test_lines_of_json_come_every_second(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(as_json=True) as update:
        for share, elapsed_s in ((0.1, 1.0), (0.2, 1.5), (0.5, 3.0)):
            update(Progress(8, 4, 1, 40, 100.0, share, elapsed_s, file="https://host/a.mp4?signature=5f"))
    rows = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(row["share"], row["left"], row["file"]) for row in rows] == [
        (0.1, None, "https://host/a.mp4"),
        (0.5, 2.5, "https://host/a.mp4"),
    ]


def test_the_bar_says_that_an_interrupted_run_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vidret.present.progress.shows_bars", lambda: True)
    console = Console(stderr=True, force_terminal=True, width=100)
    monkeypatch.setattr("vidret.present.progress.load_console", lambda: console)
    with show_progress() as update:
        update(Progress(8, 4, 0, 40, 100.0, 0.5, 20.0, interrupted=True))
    assert "stopping" in capsys.readouterr().err


def test_a_count_has_the_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 1.0, 21.0])
    monkeypatch.setattr("vidret.present.progress.time.monotonic", lambda: next(clock))
    with show_count("scoring", "queries") as update:
        update(10, 100)
        update(50, 100)
    assert capsys.readouterr().err == "scoring: 50 of 100 queries, 0:25.0 left\n"


def test_a_merge_counts_in_the_singular_and_says_what_is_left_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    print_merge_summary(MergeReport(copied=1, moments=1, texts=2, watches=1, collections=1), Path("out"))
    assert "1 prepared moment, 2 texts, 1 watch, 1 collection, in " in capsys.readouterr().err.replace("\n", " ")
    print_merge_summary(MergeReport(interrupted=True, damaged=[("/films/a.mp4", "is damaged")]), Path("out"))
    first, damaged, advice, end = capsys.readouterr().err.splitlines()
    assert first.startswith("Interrupted: 0 videos copied")
    assert damaged == "  not copied: /films/a.mp4: is damaged"
    assert advice == "  To encode again what was not copied: vidret index PATH... --index out"
    assert "run the same command again" in end
