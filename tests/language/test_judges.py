"""Tests of FIRST and ICR with a tiny random model: naive twins from the papers, properties, refusals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.language.causal import transformers, write_causal_model
from vidret.encode.causal import CausalModel, load_causal_model
from vidret.errors import EncoderError, VidretError
from vidret.language.judges import NO_QUERY, FirstJudge, IcrJudge, calibrate_attention, sort_scores
from vidret.language.judging import Candidate, write_passage

CANDIDATES = [
    Candidate(name=f"{name}.mp4", text=text)
    for name, text in [("dog", "a dog runs"), ("sea", "waves and wind"), ("oil", "the price of oil"), ("tea", "")]
]
QUERY = "who sells oil?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_causal_model(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def model(folder: Path) -> CausalModel:
    return load_causal_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def published(folder: Path) -> Any:
    """Return the model as transformers loads it."""
    return transformers.LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


class Spy(CausalModel):
    """A model that keeps what it is asked."""

    def __init__(self, model: CausalModel) -> None:
        self.__dict__ |= vars(model)
        self.prompts: list[str] = []
        self.asked: list[Sequence[str]] = []
        self.spans: list[tuple[int, int]] = []

    def score_next(self, text: str, choices: Sequence[str]) -> torch.Tensor:
        self.prompts.append(text)
        return super().score_next(text, choices)

    def attend(self, text: str, asked: Sequence[str], spans: Sequence[tuple[int, int]]) -> list[list[torch.Tensor]]:
        self.prompts.append(text)
        self.asked.append(asked)
        self.spans = list(spans)
        return super().attend(text, asked, spans)


def encode(folder: Path, text: str) -> list[int]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@torch.no_grad()
def test_first_orders_by_the_logits_of_labels(folder: Path, model: CausalModel, published: Any) -> None:
    spy = Spy(model)
    verdict = FirstJudge(spy).judge(QUERY, CANDIDATES)
    (prompt,) = spy.prompts
    assert prompt.endswith("[")
    assert [
        prompt.count(f"[{letter}] {candidate.name}") for letter, candidate in zip("ABCD", CANDIDATES, strict=True)
    ] == [1] * 4
    log = published(torch.tensor([encode(folder, prompt)])).logits[0, -1].log_softmax(0)
    logits = {at: float(log[encode(folder, "ABCD"[at])[0]]) for at in range(4)}
    assert list(verdict.order) == sorted(logits, key=lambda at: -logits[at])


@torch.no_grad()
def test_icr_is_what_the_paper_says(folder: Path, model: CausalModel, published: Any) -> None:
    """The naive twin reads each prompt in whole, and adds attention head by head and token by token."""
    spy = Spy(model)
    scores = IcrJudge(spy).score(QUERY, CANDIDATES)
    (text,), ((asked, unasked),) = spy.prompts, spy.asked
    assert (QUERY in asked, NO_QUERY in unasked, QUERY in text) == (True, True, False)

    def attend(question: str) -> list[float]:
        before, after = encode(folder, text), encode(folder, question)
        attentions = published(torch.tensor([before + after]), output_attentions=True).attentions
        paid = [0.0] * len(before)
        for layer in attentions:
            for head in layer[0]:
                for token in range(len(before)):
                    for row in range(len(before), len(before) + len(after)):
                        paid[token] += float(head[row, token]) / len(after)
        return paid

    one, none = attend(asked), attend(unasked)
    for (start, end), candidate, score in zip(spy.spans[::-1], CANDIDATES, scores.tolist(), strict=True):
        assert write_passage(candidate) in text[start:end]
        tokens = range(len(text[:start].encode()), len(text[:end].encode()))
        change = [one[token] - none[token] for token in tokens]
        mean = sum(change) / len(change)
        deviation = (sum((value - mean) ** 2 for value in change) / (len(change) - 1)) ** 0.5
        kept = sum(value for value in change if value > mean - 2 * deviation)
        assert score == pytest.approx(kept, abs=2e-4)


def test_icr_without_a_query_keeps_the_order(model: CausalModel) -> None:
    judge = IcrJudge(model)
    assert judge.score(NO_QUERY, CANDIDATES).abs().max() < 1e-6
    verdict = judge.judge(QUERY, CANDIDATES)
    scores = judge.score(QUERY, CANDIDATES)
    assert list(verdict.order) == scores.argsort(descending=True).tolist()
    assert verdict.reasons[0].startswith("attention ")


def test_calibration_drops_low_outliers_only() -> None:
    flat = torch.zeros(10)
    low, high = flat.clone(), flat.clone()
    low[3], high[3] = -1.0, 1.0
    assert calibrate_attention(low, flat) == 0
    assert calibrate_attention(high, flat) == 1
    assert calibrate_attention(torch.ones(1), torch.zeros(1)) == 1  # no deviation
    assert calibrate_attention(torch.ones(3), torch.zeros(3)) == 3


def test_long_candidates_are_cut_until_they_fit(model: CausalModel) -> None:
    long = [Candidate(name=f"{at}.mp4", text="word " * 290) for at in range(10)]
    spy = Spy(model)
    assert sorted(FirstJudge(spy).judge(QUERY, long).order) == list(range(10))
    assert model.count_tokens(spy.prompts[0]) <= model.context
    assert sorted(IcrJudge(spy).judge(QUERY, long).order) == list(range(10))
    endless = [Candidate(name="a" * 300, text="b" * 3000)] * 2
    with pytest.raises(VidretError, match="too long for a model of 2048 tokens"):
        FirstJudge(model).judge(QUERY, endless)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_sorted_scores_are_a_stable_permutation(scores: list[float]) -> None:
    order = sort_scores(torch.tensor(scores, dtype=torch.float64))
    assert list(order) == sorted(range(len(scores)), key=lambda at: (-scores[at], at))


def test_invalid_models_and_windows_are_refused(model: CausalModel, tmp_path: Path) -> None:
    with pytest.raises(VidretError, match="window must be at most 26, got 27"):
        FirstJudge(model).judge(QUERY, [CANDIDATES[0]] * 27)
    with pytest.raises(VidretError, match="scores must be finite"):
        sort_scores(torch.tensor([0.0, float("nan")]))
    with pytest.raises(EncoderError, match="must write"):
        model.score_next("a", ["AB"])
    for name in (str(tmp_path), f"hf:{tmp_path}"):
        with pytest.raises(EncoderError, match="must hold the config"):
            load_causal_model(name, device="cpu")
