"""Taught concepts: the direction against loops, the weight of examples, storage, and searches by them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.fakes import ColourEncoder, paint, write_film
from vidret.engine import Engine
from vidret.errors import StoreError, VidretError
from vidret.search.concepts.encoder import SHRINKAGE, Composer, VectorSample, find_direction
from vidret.search.concepts.storage import load_concept, save_concept
from vidret.search.concepts.teaching import choose_share
from vidret.store.store import Store
from vidret.types import ComposedQuery, ConceptExample, ExampleLike, Hit, Moment

NONE = np.empty((0, 3))


def sample(num: int = 12, dim: int = 3, seed: int = 0) -> VectorSample:
    rows = np.random.default_rng(seed).standard_normal((num, dim)) + 0.3
    return VectorSample(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.arange(num))


def naive_direction(yes: np.ndarray, no: np.ndarray, rows: np.ndarray) -> np.ndarray:
    dim = rows.shape[1]
    mean = sum(rows) / len(rows)
    covariance = np.zeros((dim, dim))
    for row in rows:
        covariance += np.outer(row - mean, row - mean) / len(rows)
    variance = sum(covariance[i, i] for i in range(dim)) / dim
    shrunk = (covariance + SHRINKAGE * variance * np.eye(dim)) / SHRINKAGE
    other = mean if not len(no) else (mean + sum(no) / len(no)) / 2
    return np.linalg.solve(shrunk, sum(yes) / len(yes) - other)


@given(num_yes=st.integers(1, 4), num_no=st.integers(0, 3), seed=st.integers(0, 99))
def test_direction_equals_loops(num_yes: int, num_no: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    yes, no = rng.standard_normal((num_yes, 3)), rng.standard_normal((num_no, 3))
    drawn = sample(seed=seed)
    np.testing.assert_allclose(
        find_direction(yes, no, drawn), naive_direction(yes, no, drawn.vectors), rtol=1e-6, atol=1e-9
    )


def test_a_single_example_weighs_what_is_expected_of_one() -> None:
    yes = np.array([[1.0, 0.0, 0.0]])
    assert choose_share(np.array([0.0, 1.0, 0.0]), yes, NONE, sample(), sample().vectors) == 0.25


def test_examples_weigh_more_the_worse_the_text_finds_them() -> None:
    rng = np.random.default_rng(0)
    yes = np.array([1.0, 0.0, 0.0]) + 0.05 * rng.standard_normal((5, 3))
    drawn = sample(num=40)
    good, bad = (choose_share(text, yes, NONE, drawn, drawn.vectors) for text in (yes[0], -yes[0]))
    assert bad > good
    assert 0 <= good <= bad <= 1


def test_an_index_of_one_segment_or_none_has_a_direction_too() -> None:
    for rows in (np.empty((0, 3)), np.array([[0.0, 1.0, 0.0]])):
        drawn = VectorSample(rows, np.zeros(len(rows), np.int64))
        assert np.isfinite(drawn.standardise(find_direction(np.array([[1.0, 0.0, 0.0]]), NONE, drawn))).all()


# In an index


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coloured")
    for name in ("red", "green", "blue", "white", "yellow", "black"):
        write_film(folder / "films" / f"{name}.mp4", (name, 3))
    write_film(folder / "films" / "both.mp4", ("blue", 4), ("red", 4))
    return folder / "films"


def names(hits: list[Hit]) -> list[str]:
    return [Path(hit.path).stem for hit in hits]


def test_one_image_teaches_a_concept_that_any_query_may_mention(engine: Engine, films: Path) -> None:
    concept = engine.teach("Mascot", [paint("red")])
    assert (concept.name, concept.text, concept.share) == ("mascot", "mascot", 0.25)
    engine.teach("mascot", [paint("red")] * 4, replace=True, text="red")
    assert set(names(engine.search("@mascot", 2))) == {"red", "both"}
    scores = [
        {Path(hit.path).stem: hit.score for hit in engine.search(query, 7)}
        for query in ("@mascot", "@MASCOT with blue")
    ]
    alone, moved = (video_scores["blue"] - video_scores["black"] for video_scores in scores)
    assert moved > alone, "words beside it count"
    moment = engine.locate("@mascot", 1, video=films / "both.mp4")[0]
    assert moment.start >= 3
    assert moment.by == "curve"


def test_examples_are_images_videos_stretches_and_results(engine: Engine, films: Path, tmp_path: Path) -> None:
    Image.fromarray(paint("red")).save(tmp_path / "red.png")
    stretch = ConceptExample(path=str(films / "both.mp4"), start=4.5, end=8)
    hit = engine.search("red", 1)[0]
    moment = Moment(hit.video, str(films / "both.mp4"), 4.5, 8.0, 0.0)
    concept = engine.teach("warm", [tmp_path / "red.png", films / "red.mp4", stretch, moment, hit], [paint("blue")])
    examples = [(Path(example.path).name, example.start) for example in concept.yes]
    assert examples[:3] == [("red.png", None), ("red.mp4", None), ("both.mp4", 4.5)]
    assert len(examples) == 4, "the stretch and the moment are one example"
    assert [example.path for example in concept.no] == ["an image"]
    assert engine.concepts() == [concept]
    red = ColourEncoder().encode_text(["red"])[0].sentence
    with Store.open(engine.path) as store:
        taught = load_concept(store, "warm")
    assert taught is not None
    assert (taught.yes @ red > 0.99).all()


def test_further_examples_are_added_and_may_change_sides(engine: Engine, films: Path, tmp_path: Path) -> None:
    stretch = ConceptExample(path=str(films / "both.mp4"), start=0.0, end=4.0)  # blue
    engine.teach("warm", [paint("red"), paint("yellow"), stretch], text="sun", add=True)
    concept = engine.teach("warm", [], [stretch, films / "green.mp4"], add=True)
    assert (len(concept.yes), concept.no[0], concept.text) == (2, stretch, "sun")
    with Store.open(engine.path) as store:
        taught = load_concept(store, "warm")
    assert taught is not None
    assert (len(taught.yes), len(taught.no)) == (2, 2)
    Image.fromarray(paint("red")).save(tmp_path / "red.png")
    files = [tmp_path / "red.png", films / "red.mp4"]
    engine.teach("lit", [*files, paint("white"), paint("white")])
    concept = engine.teach("lit", [paint("yellow"), files[1]], [files[0]], add=True)
    assert [Path(example.path).name for example in concept.yes] == ["an image"] * 3 + ["red.mp4"]
    assert [Path(example.path).name for example in concept.no] == ["red.png"]
    engine.teach("one", [stretch])
    with pytest.raises(VidretError, match="yes must hold an example of one, got none"):
        engine.teach("one", [], [stretch], add=True)
    with pytest.raises(VidretError, match="a concept must be replaced or added to, got both"):
        engine.teach("one", [stretch], replace=True, add=True)


def test_events_mean_what_a_concept_has_learned_since(engine: Engine) -> None:
    engine.teach("mascot", [paint("blue")] * 4, text="blue")
    first, *others = engine.search("@mascot, then red")
    assert names([first]) == ["both"]
    assert all(first.score > hit.score + 1 for hit in others), "blue and then red"
    engine.teach("mascot", [paint("red")] * 4, text="red", replace=True)
    first, second, *others = engine.search("@mascot, then red")
    assert set(names([first, second])) == {"both", "red"}, "red all along"
    assert first.score == pytest.approx(second.score)
    assert all(second.score > hit.score + 1 for hit in others)


def test_concepts_are_kept_replaced_and_forgotten(engine: Engine) -> None:
    engine.teach("one", [paint("red")])
    with Engine(engine.path, ColourEncoder()) as other:
        assert [concept.name for concept in other.concepts()] == ["one"]
    with pytest.raises(VidretError, match="@one is taught already: to teach it again, replace it"):
        engine.teach("ONE", [paint("blue")])
    engine.teach("one", [paint("blue")], replace=True)
    engine.forget("@one")
    assert engine.concepts() == []
    refusal = r"@one: must be the name of a taught concept \(none\); to teach it: vidret teach"
    for query in ("@one walks", "a walk -@one", "-@one a walk", "a walk, no @one"):
        with pytest.raises(VidretError, match=refusal):
            engine.search(query)


@pytest.mark.wrong_shapes
def test_an_example_is_a_path_an_image_or_a_result(engine: Engine) -> None:
    with pytest.raises(VidretError, match="an example must be a path, an image or a result, got 3"):
        engine.teach("bad", [3])  # type: ignore[list-item]


def test_wrong_input_is_refused_in_one_sentence(engine: Engine, films: Path, tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_text("no image")
    late = ConceptExample(path=str(films / "red.mp4"), start=50, end=60)
    backwards = ConceptExample(path=str(films / "red.mp4"), start=1.2, end=0.4)
    refused: tuple[tuple[str, list[ExampleLike], str], ...] = (
        ("none", [], "yes must hold an example of none, got none"),
        ("bad", [tmp_path / "no.jpg"], r"no.jpg: must be an image or a video of the index: image must be"),
        ("bad", [tmp_path / "gone.mp4"], r"gone.mp4: not in the index; an example must be an image or a video"),
        ("bad", [late], r"red.mp4: the index has no frame from 50 to 60 s"),
        ("bad", [replace(late, end=None)], r"red.mp4: the index has no frame from 50 s"),
        ("bad", [backwards], r"red.mp4: a span must not end before it starts, got 1.2 to 0.4 s"),
        ("a b", [paint("red")], "name must be a letter"),
    )
    for name, yes, message in refused:
        with pytest.raises(VidretError, match=message):
            engine.teach(name, yes)
    with pytest.raises(VidretError, match=r"yes must be a list, got 'red.mp4'"):
        engine.teach("bad", "red.mp4")
    with pytest.raises(VidretError, match=r"no must be a list, got 'red.mp4'"):
        engine.teach("bad", [paint("red")], "red.mp4")
    with pytest.raises(VidretError, match="text must contain a word"):
        engine.teach("bad", [paint("red")], text=" ")
    for search in (engine.search, engine.locate):
        with pytest.raises(VidretError, match="@nobody: must be the name of a taught concept"):
            search("a dog, then @nobody")
        with pytest.raises(VidretError, match="query must not exclude what it looks for, got 'red' for both"):
            search("red -red")
    assert engine.search('"@nobody" is written'), "what is quoted is no concept, and an index without words holds none"
    with pytest.raises(VidretError, match="@x: must be the name"):
        engine.forget("x")
    with Store.open(engine.path, write=True), pytest.raises(StoreError, match="writ"):
        engine.teach("late", [paint("red")])


def test_examples_of_another_dimension_are_refused(engine: Engine) -> None:
    engine.teach("mascot", [paint("red")])
    with Store.open(engine.path, write=True) as store:
        taught = load_concept(store, "mascot")
        assert taught is not None
        save_concept(store, replace(taught, yes=taught.yes[:, 1:], no=taught.no[:, 1:]))
    with pytest.raises(StoreError, match="@mascot must have examples of dimension 3, that of the encoder, got 2"):
        engine.search("@mascot in the snow")
    engine.teach("mascot", [paint("red")], replace=True)
    assert names(engine.search("@mascot", 1))[0] in ("red", "both")


# Images with words


def test_words_move_an_image(engine: Engine) -> None:
    image = paint("blue")
    assert names(engine.search(ComposedQuery(images=(image,)), 3)) == names(engine.search(image, 3))
    assert names(engine.search(ComposedQuery(images=(image,), text="-red"), 1)) == ["blue"]
    scores = [
        {Path(hit.path).stem: hit.score for hit in engine.search(query, 7)}
        for query in (ComposedQuery(images=(image, image)), ComposedQuery(images=(image,), text="red"))
    ]
    gains = [video_scores["red"] - video_scores["black"] for video_scores in scores]
    assert gains[1] > gains[0]
    middle = engine.search(ComposedQuery(images=(paint("red"), paint("green"))), 7)
    assert names(middle)[0] in ("yellow", "red", "green")
    with pytest.raises(VidretError, match="images must hold an image, got none"):
        engine.search(ComposedQuery(images=(), text="red"))


@given(seed=st.integers(0, 20), scale=st.floats(0.1, 10))
def test_the_scale_of_a_part_does_not_matter(seed: int, scale: float) -> None:
    drawn, rng = sample(seed=seed), np.random.default_rng(seed)
    direction = rng.standard_normal(3)
    np.testing.assert_allclose(drawn.standardise(scale * direction), drawn.standardise(direction), rtol=1e-9)
    assert drawn.measure_spread(drawn.standardise(direction)) == pytest.approx(1)


def test_a_composed_vector_has_the_level_and_spread_of_texts(engine: Engine) -> None:
    with Store.open(engine.path) as store:
        composer = Composer(store, ColourEncoder())
        vector, offset = composer.compose([(np.array([1.0, 0.0, 0.0]), 1.0), (np.array([0.0, 5.0, 0.0]), 1.0)])
        texts = np.stack([text.sentence for text in ColourEncoder().encode_text(["red", "blue", "green"])])
        scores = composer.sample.vectors @ vector + offset
        assert scores.std() == pytest.approx((texts @ composer.sample.vectors.T).std(axis=1).mean(), rel=0.5)
        assert abs(scores.mean()) < 1


def test_the_index_is_sampled_again_once_its_size_has_changed_by_a_quarter(engine: Engine) -> None:
    with Store.open(engine.path, write=True) as store:
        composer = Composer(store, ColourEncoder())
        first_sample, files = composer.sample, store.files.find(state="done")
        for file, is_kept in zip(files[:2], (True, False), strict=True):
            store.writer.set_file(file.path, state="missing", video=file.video)
            assert (composer.sample is first_sample) == is_kept
        assert len(composer.sample.vectors) == len(first_sample.vectors) - 2
