"""Order by an attribute: its parts against naive twins, whole searches against how much of it each video was given."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import COLOURS, unit
from tests.spoken import NamedColours
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.search.sorting import NEARLY, OPPOSITES, Attribute, fit_attribute, parse_attribute, sort_hits
from vidret.types import ComposedQuery, Frames, Hit, Segment, SegmentEmbedding

SHARES = (3, 0, 5, 1, 4, 2)  # columns of five that are blue, not yellow, by video; three more are red


class ColumnColours(NamedColours):
    """A frame has the colours of all of its columns."""

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        values = np.array(list(COLOURS.values()))
        embeddings = []
        for frames in batch:
            nearest = ((frames.pixels[:, 0, :, None] - values) ** 2).sum(axis=3).argmin(axis=2)
            vectors = unit(np.eye(self.dim)[nearest].mean(axis=1))
            embeddings.append(SegmentEmbedding(unit(vectors.mean(axis=0)), vectors, frames.times))
        return embeddings


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("graded") / "index", ColumnColours(), rerank="none") as engine:
        for video_index, num_blue in enumerate(SHARES):
            names = ["red"] * 3 + ["blue"] * num_blue + ["yellow"] * (5 - num_blue)
            picture = np.tile(np.array([COLOURS[name] for name in names], np.uint8), (8, 1, 1))
            engine.index_frames(f"{video_index}", np.tile(picture, (3, 1, 1, 1)), np.arange(3.0))
        yield engine


def share(hit: Hit) -> int:
    return SHARES[int(hit.path.removeprefix("frames://"))]


def make_hit(number: int, probability: float | None, score: float) -> Hit:
    return Hit(number, f"{number}", Segment(number, 0, 0.0, 1.0), time=0.5, score=score, probability=probability)


def sort_by_share(hits: Sequence[Hit], sign: int) -> list[int]:
    """Return what ``sort_hits`` must make of hits that all match."""
    return [share(hit) for hit in sorted(hits, key=lambda hit: sign * share(hit))]


def test_what_matches_is_sorted_by_how_much_it_has_of_an_attribute(engine: Engine) -> None:
    plain = engine.search("red", 6)
    assert plain[-1].score > plain[0].score - NEARLY
    most = engine.search("red", 6, sort_by="blue/yellow")
    assert [share(hit) for hit in most] == sort_by_share(plain, -1)
    assert [share(hit) for hit in engine.search("red", 6, sort_by="yellow/blue")] == sort_by_share(plain, 1)
    assert engine.search("red", 2, offset=1, sort_by="blue/yellow") == most[1:3]
    for least in {(hit.probability or 0.0) - 1e-6 for hit in most}:  # rounding differs between searches
        probable = [hit for hit in most if (hit.probability or 0.0) >= least]
        for offset in range(3):
            found = engine.search("red", 2, offset=offset, at_least=least, sort_by="blue/yellow")
            assert found == probable[offset : offset + 2]
    without = {hit.video: {name: value for name, value in hit.why.items() if name != "blue"} for hit in most}
    assert without == {hit.video: dict(hit.why) for hit in plain}, "only the order changes"
    values = np.array([hit.why["blue"] for hit in most])
    np.testing.assert_allclose([values.mean(), values.std()], [0, 1], atol=1e-5)  # there are no other segments
    assert engine.search("red", 6, sort_by="blue/yellow", display="diverse")[0] == most[0]


def test_a_taught_concept_is_an_attribute_without_an_opposite(engine: Engine) -> None:
    by_share = {share(hit): hit for hit in engine.search("red", 6)}
    engine.teach("festive", [by_share[5]], [by_share[0]], text="blue")
    found = engine.search("red", 6, sort_by="@festive")
    assert [share(hit) for hit in found] == sort_by_share(list(by_share.values()), -1)
    assert "@festive" in found[0].why
    engine.forget("festive")


def test_ratings_are_differences_of_similarities_in_standard_deviations(engine: Engine) -> None:
    more, less = (text.sentence for text in engine.encoder.encode_text(["blue sea", "sand"]))
    vectors = engine.embeddings("segment").vectors
    gaps = [sum(x * a for x, a in zip(row, more)) - sum(x * b for x, b in zip(row, less)) for row in vectors]  # noqa: B905
    expected = (np.array(gaps) - np.mean(gaps)) / np.std(gaps)
    attribute = fit_attribute("blue sea/sand", engine._index.encoder)
    np.testing.assert_allclose(attribute.rate(vectors), expected, atol=2e-3)  # vectors are stored in float16


GIVEN = st.tuples(st.sampled_from([None, 0.8, 0.2, 0.01]), st.sampled_from([9.0, 6.5, 5.5]))


@given(given_hits=st.lists(GIVEN, min_size=1), seed=st.integers(0, 100))
def test_unlikely_hits_far_below_the_best_come_last(given_hits: list[tuple[float | None, float]], seed: int) -> None:
    hits = [make_hit(video_id, *values) for video_id, values in enumerate(given_hits)]
    vectors = np.random.default_rng(seed).standard_normal((len(hits), 3)).astype(np.float32)
    attribute = Attribute(name="x", direction=np.array([1.0, 0, 0]), mean=0.0, deviation=2.0)
    found = sort_hits(hits, list(vectors), attribute)
    best = max(hit.score for hit in hits)
    rest = [hit for hit in hits if hit.likelihood == "unlikely" and hit.score < best - NEARLY]
    matching = sorted((hit for hit in hits if hit not in rest), key=lambda hit: -vectors[hit.video, 0])
    assert [replace(hit, why={}) for hit in found] == [*matching, *rest]
    assert [replace(hit, why={}) for hit in sort_hits(hits, [None] * len(hits), attribute)] == hits


def test_known_opposites_are_words_of_one_pair() -> None:
    assert all(OPPOSITES[less] == more != less for more, less in OPPOSITES.items())
    assert parse_attribute(" Crowded ") == ("crowded", "empty")


@pytest.mark.parametrize("text", ["", "purplish", "a/b/c", "crowded/", "/", "@a @b", "most crowded"])
def test_an_attribute_without_an_opposite_is_refused(engine: Engine, text: str) -> None:
    with pytest.raises(VidretError, match="sort_by must be two opposites"):
        engine.search("red", sort_by=text)
    with pytest.raises(VidretError, match="sort_by must have at most 1000 characters, got 1001"):
        engine.search("red", sort_by="a/" + 999 * "b")


def test_known_attributes_are_listed_in_order() -> None:
    with pytest.raises(VidretError, match=f"one of {', '.join(sorted(OPPOSITES))}, got 'purplish'"):
        parse_attribute("purplish")


def test_unknown_concepts_and_queries_without_words_are_refused(engine: Engine) -> None:
    with pytest.raises(VidretError, match="@nothing: must be the name of a taught concept"):
        engine.search("red", sort_by="@nothing")
    image = np.zeros((16, 16, 3), np.uint8)
    for query in (image, ComposedQuery(images=(image,), text="red")):
        with pytest.raises(VidretError, match="sort_by must come with a query of words"):
            engine.search(query, sort_by="crowded")
