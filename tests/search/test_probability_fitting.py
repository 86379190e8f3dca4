"""Fitting probabilities: a naive twin, what must hold for any answers, and the model of an index through the engine."""

import math
import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fakes import ColourEncoder, write_film
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.search.probability import MAX_GAP, UNFITTED, ProbabilityModel
from vidret.search.probability_fitting import (
    MIN_ANSWERS,
    PRIOR_ANSWERS,
    ScoredQuery,
    choose_probabilities,
    find_calibration_error,
    fit_probabilities,
    split_halves,
)
from vidret.types import Hit

SIZE = 300


def make_query(name: str, is_answered: bool, scores: Sequence[float], rights: Sequence[bool]) -> ScoredQuery:
    return ScoredQuery(name=name, is_answered=is_answered, scores=tuple(scores), rights=tuple(rights), size=SIZE)


@st.composite
def draw_queries(draw: st.DrawFn, min_size: int = 1) -> list[ScoredQuery]:
    """Draw queries to one index."""
    queries = []
    for query_index in range(draw(st.integers(min_size, 12))):
        scores = sorted(draw(st.lists(st.floats(-5, 12), min_size=1, max_size=4)), reverse=True)
        is_answered = draw(st.booleans())
        rights = [is_answered and draw(st.booleans()) for _ in scores]
        name = draw(st.sampled_from("abc")) if is_answered else f"query {query_index}"
        queries.append(make_query(name, is_answered, scores, rights))
    return queries


def draw_answers(model: ProbabilityModel, number: int, *, seed: int = 0) -> list[ScoredQuery]:
    """Return queries whose answers are as probable as a model says."""
    rng = np.random.default_rng(seed)
    queries = []
    for query_index in range(number):
        scores = np.sort(rng.normal(2, 4, 10))[::-1]
        present = bool(rng.random() < model.index(scores[0], SIZE))
        rights = [bool(rng.random() < model.video(score, scores[0], SIZE)) for score in scores]
        queries.append(make_query(f"{query_index}", present, scores.tolist(), rights))
    return queries


# The fit


def measure_naively(
    weights: Sequence[float], prior: Sequence[float], rows: list[tuple[list[float], bool, float]]
) -> float:
    """Return what a fit minimises: the log loss of labels, and of as many answers as the prior has it."""
    loss = 0.0
    for features, label, weight in rows:
        odds = sum(a * b for a, b in zip(weights, features, strict=True))
        believed = 1 / (1 + math.exp(-sum(a * b for a, b in zip(prior, features, strict=True))))
        log_right, log_wrong = -math.log1p(math.exp(-odds)), -math.log1p(math.exp(odds))
        loss -= log_right if label else log_wrong
        loss -= weight * (believed * log_right + (1 - believed) * log_wrong)
    return loss


def list_rows(queries: Sequence[ScoredQuery], part: str) -> list[tuple[list[float], bool, float]]:
    """Return the features of each row, whether it is right, and what the prior counts as."""
    weight = PRIOR_ANSWERS / len(queries)
    rows = []
    for query in queries:
        if part == "index":
            rows.append(([query.scores[0], math.log(query.size), 1.0], query.is_answered, weight))
            continue
        for score, right in zip(query.scores, query.rights, strict=True):
            gap = max(score - query.scores[0], -MAX_GAP)
            rows.append(([score, gap, math.log(query.size), 1.0], right, weight))
    return rows


@settings(max_examples=50)
@given(draw_queries())
@example([make_query("a", True, (3.0, 0.125, 0.0, 0.0), (False, False, False, True))])  # both slopes become 0
def test_no_other_weights_fit_better_by_a_naive_twin(queries: list[ScoredQuery]) -> None:
    """The loss is convex, so that weights next to which none are better are the best."""
    fitted = fit_probabilities(queries, UNFITTED)
    for part, weights, prior, size in (
        ("index", fitted.index_weights, UNFITTED.index_weights, 1),
        ("video", fitted.video_weights, UNFITTED.video_weights, 2),
    ):
        rows = list_rows(queries, part)
        assert weights[size] == prior[size], "one index does not tell what its size does"
        assert min(weights[:size]) >= 0
        least = measure_naively(weights, prior, rows)
        for signs in product((-1, 0, 1), repeat=len(weights)):
            other = [weight + 1e-3 * sign for weight, sign in zip(weights, signs, strict=True)]
            if signs[size] == 0 and min(other[:size]) >= 0:
                assert measure_naively(other, prior, rows) >= least - 1e-9 * len(rows)


@given(draw_queries(), st.randoms())
def test_order_of_answers_does_not_matter(queries: list[ScoredQuery], random: Random) -> None:
    shuffled = list(queries)
    random.shuffle(shuffled)
    one, other = fit_probabilities(queries, UNFITTED), fit_probabilities(shuffled, UNFITTED)
    assert one.index_weights == pytest.approx(other.index_weights, abs=1e-5)
    assert one.video_weights == pytest.approx(other.video_weights, abs=1e-5)
    halves = [sorted(half, key=repr) for half in split_halves(queries)]
    assert [sorted(half, key=repr) for half in split_halves(shuffled)] == halves


@given(draw_queries(), st.lists(st.floats(-20, 20), min_size=2, max_size=5))
def test_no_answers_change_the_ranking(queries: list[ScoredQuery], scores: list[float]) -> None:
    model = fit_probabilities(queries, UNFITTED)
    ranked = [model.video(score, max(scores), SIZE) for score in sorted(scores)]
    assert ranked == sorted(ranked)


def test_ten_answers_move_probabilities_little_and_a_thousand_decide() -> None:
    other = ProbabilityModel(
        index_weights=(1.2, UNFITTED.index_weights[1], -3.0), video_weights=(1.0, 0.3, UNFITTED.video_weights[2], -2.0)
    )
    scores = np.linspace(-3, 12, 31)
    defaults, others = ([model.index(score, SIZE) for score in scores] for model in (UNFITTED, other))
    distance = np.abs(np.subtract(defaults, others)).max()

    def measure_share(number: int) -> float:
        fitted = fit_probabilities(draw_answers(other, number), UNFITTED)
        found = [fitted.index(score, SIZE) for score in scores]
        return float(np.abs(np.subtract(found, defaults)).max() / distance)

    assert measure_share(10) < 0.25
    assert measure_share(1000) > 0.75
    found = fit_probabilities(draw_answers(other, 20_000), UNFITTED)
    assert found.index_weights == pytest.approx(other.index_weights, abs=0.15)
    assert found.video_weights == pytest.approx(other.video_weights, abs=0.15)


def test_answers_that_contradict_the_scores_make_them_say_nothing() -> None:
    rows = [(n % 2 == 0, (9.0 * (n % 2), -9.0), (False, n % 2 == 0)) for n in range(2000)]
    model = fit_probabilities([make_query(f"{n}", *row) for n, row in enumerate(rows)], UNFITTED)
    assert model.index_weights[0] == 0
    assert model.index(9.0, SIZE) == model.index(0.0, SIZE) == pytest.approx(0.5, abs=0.05)
    assert min(model.video_weights[:2]) == 0
    assert fit_probabilities([], UNFITTED) == UNFITTED


# Held-out answers


def test_halves_are_even_and_divide_no_name() -> None:
    queries = [make_query(name, name < "n", (float(n),), (False,)) for n, name in enumerate("abcdefaabbxyz")]
    one, other = split_halves(queries)
    assert sorted(map(id, one + other)) == sorted(map(id, queries))
    names = [{query.name for query in half} for half in (one, other)]
    assert names[0].isdisjoint(names[1])
    assert abs(len(names[0]) - len(names[1])) <= 1


def test_fit_is_chosen_where_it_helps_with_held_out_answers() -> None:
    other = ProbabilityModel(index_weights=(1.2, UNFITTED.index_weights[1], -3.0), video_weights=UNFITTED.video_weights)
    queries = draw_answers(other, 400)
    report = choose_probabilities(queries, UNFITTED)
    assert report.num_answered == sum(query.is_answered for query in queries) == 400 - report.num_absent
    assert report.index.helps
    assert report.index.error_after < report.index.error_before
    assert report.model.index_weights == fit_probabilities(queries, UNFITTED).index_weights


def test_fit_to_what_the_other_half_contradicts_does_not_help() -> None:
    queries = []
    for query_index in range(40):
        present, is_second = query_index < 20, query_index % 2 == 1
        score = 9.0 if present != is_second else -3.0
        queries.append(make_query(f"{query_index:02}", present, (score,), (present,)))
    report = choose_probabilities(queries, UNFITTED)
    assert (report.index.helps, report.videos.helps, report.helps) == (False, False, False)
    assert report.model == UNFITTED != fit_probabilities(queries, UNFITTED)


def test_measures_of_the_default_are_those_of_all_answers() -> None:
    queries = draw_answers(UNFITTED, 60)
    report = choose_probabilities(queries, UNFITTED)
    losses = [
        -math.log(probability if right else 1 - probability)
        for query in queries
        for score, right in zip(query.scores, query.rights, strict=True)
        for probability in [UNFITTED.video(score, query.scores[0], SIZE)]
    ]
    assert report.videos.loss_before == pytest.approx(sum(losses) / len(losses))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_calibration_error_agrees_with_its_naive_twin(rated: list[tuple[float, bool]]) -> None:
    error = 0.0
    for bin_index in range(10):
        in_bin = [(p, right) for p, right in rated if bin_index == min(math.floor(p * 10), 9)]
        if in_bin:
            mean, share = sum(p for p, _ in in_bin) / len(in_bin), sum(right for _, right in in_bin) / len(in_bin)
            error += len(in_bin) / len(rated) * abs(mean - share)
    probabilities, rights = zip(*rated, strict=True)
    assert find_calibration_error(np.array(probabilities), np.array(rights)) == pytest.approx(error)


@given(draw_queries(), st.integers(0, MIN_ANSWERS - 1), st.booleans())
def test_few_answers_of_a_kind_are_refused(queries: list[ScoredQuery], few: int, is_answered: bool) -> None:
    few_queries = [query for query in queries if query.is_answered != is_answered]
    few_queries += [query for query in queries if query.is_answered == is_answered][:few]
    with pytest.raises(VidretError, match=rf"at least {MIN_ANSWERS} queries that .* got \d+ and \d+$"):
        choose_probabilities(few_queries, UNFITTED)


# Through the engine


USELESS = ProbabilityModel(index_weights=(0.5, 0.0, 50.0), video_weights=(5.0, 0.0, 0.0, 5.0))
COLOURS = ("red", "green", "blue", "white", "yellow")
NO_COLOURS = ("a dog", "rain", "the sea", "a car", "music", "a tree")


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    for colour in COLOURS:
        write_film(folder / "films" / f"{colour}.mp4", (colour, 2))
    with Engine(folder / "index", ColourEncoder()) as engine:
        engine.index([folder / "films"], words=False)
    return folder / "index"


@pytest.fixture
def index(indexed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(indexed, tmp_path / "index")


def list_answers(times: int) -> dict[str, list[str]]:
    """Return queries for the colours of films, and for what none shows; repeated in other words."""
    return {
        f"{text}{' film' * repeat}": [f"{text}.mp4"] if text in COLOURS else []
        for repeat in range(times)
        for text in COLOURS + NO_COLOURS
    }


def ask(engine: Engine) -> list[list[Hit]]:
    return [engine.search(query) for query in (*COLOURS, *NO_COLOURS)]


def test_a_fit_changes_probabilities_and_no_ranking(index: Path) -> None:
    answers = list_answers(12)
    seen: list[tuple[int, int]] = []
    wrong = {query: ["red.mp4"] if not files else [] for query, files in list_answers(1).items()}
    with Engine(index, ColourEncoder()) as engine, Engine(index, ColourEncoder()) as reader:
        before = ask(engine)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vidret.search.probability_fitting.fit_probabilities", lambda *_: USELESS)
            assert not engine.calibrate_probabilities(wrong).helps
        assert ask(reader) == before, "what does not help is not stored"
        alone = reader.locate("red", video="red.mp4")[0].probability
        report = engine.calibrate_probabilities(answers, on_progress=lambda done, total: seen.append((done, total)))
        assert seen == [(done, len(answers)) for done in range(1, len(answers) + 1)]
        assert (report.num_answered, report.num_absent) == (60, 72)
        assert report.helps
        after = ask(engine)
        assert ask(reader) == after, "an engine that is open reads it too"
        assert reader.locate("red", video="red.mp4")[0].probability != alone
        for old, new in zip(before, after, strict=True):
            assert [(hit.video, hit.score, hit.why) for hit in old] == [(hit.video, hit.score, hit.why) for hit in new]
        assert [hits[0].probability for hits in after] != [hits[0].probability for hits in before]
        assert after[0][0].probability == report.model.video(
            after[0][0].score, after[0][0].score, len(engine._index.store)
        )
        engine.forget_probabilities()
        assert ask(reader) == before


def test_answers_that_cannot_be_used_are_refused(index: Path) -> None:
    refused: tuple[tuple[dict[str, list[str]], str], ...] = (
        ({"a dog": ["gone.mp4"]}, r"gone\.mp4: not in the index"),
        ({"-dog": []}, "^-dog: "),
        ({"@dog": []}, "^@dog: .*concept"),
        ({}, "got 0 and 0"),
    )
    with Engine(index, ColourEncoder()) as engine:
        for answers, message in refused:
            with pytest.raises(VidretError, match=message):
                engine.calibrate_probabilities(answers)
