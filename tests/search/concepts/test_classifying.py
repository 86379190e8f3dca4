"""Tags: the classes of all videos from a few examples, and the concepts that they are kept as."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import ColourEncoder, paint, write_film
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.search.concepts.classifying import average_segments, classify_videos
from vidret.search.concepts.storage import load_concept
from vidret.store.store import Store
from vidret.types import Concept, ConceptExample, ExampleLike

FILMS = ("red", "green", "blue", "yellow", "white", "black")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coloured")
    for name in FILMS:
        write_film(folder / "films" / f"{name}.mp4", (name, 3))
    write_film(folder / "films" / "both.mp4", ("blue", 14), ("red", 4))
    return folder / "films"


def test_every_video_gets_the_class_that_its_examples_show(engine: Engine, films: Path) -> None:
    classes: dict[str, list[ExampleLike]] = {
        "red": [paint("red"), films / "red.mp4"],
        "blue": [paint("blue"), films / "blue.mp4"],
    }
    tagged = engine.classify(classes)
    tags = {Path(video.path).stem: video.tag for video in tagged}
    assert set(tags) == {*FILMS, "both"}
    assert (tags["red"], tags["blue"], tags["both"]) == ("red", "blue", "blue"), "most of both is blue"
    keys = [(list(classes).index(video.tag), -video.probability) for video in tagged]
    assert keys == sorted(keys)
    assert all(0.5 <= video.probability <= 1 for video in tagged)
    wordless = engine.classify({"a": classes["red"], "b": classes["blue"]})
    assert {(Path(video.path).stem, video.tag) for video in wordless} >= {("red", "a"), ("blue", "b")}


def test_examples_keep_their_class_and_unreadable_files_are_left_out(
    engine: Engine, films: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (films.parent / "bad.mp4").write_text("no video")
    tagged = engine.classify(
        {
            "red": [paint("red"), films / "blue.mp4", films.parent / "bad.mp4", films / "green.mp4"],
            "blue": [paint("blue"), films / "green.mp4"],
        }
    )
    sure = {Path(video.path).stem: video.tag for video in tagged if video.probability == 1}
    assert sure == {"blue": "red"}, "green is an example of both"
    assert "bad.mp4: must be an image or a video of the index" in caplog.text


def test_copies_and_links_of_videos_are_examples(engine: Engine, films: Path, tmp_path: Path) -> None:
    copy, link = tmp_path / "a.mp4", tmp_path / "b.mp4"
    shutil.copyfile(films / "red.mp4", copy)
    link.symlink_to(films / "blue.mp4")
    tagged = engine.classify({"red": [copy], "blue": [link]}, save="kind")
    sure = {Path(video.path).stem: video.tag for video in tagged if video.probability == 1}
    assert sure == {"red": "red", "blue": "blue"}
    copy.unlink()
    examples = [example.path for concept in engine.concepts() for example in concept.yes]
    assert sorted(examples) == sorted([str(films / "blue.mp4"), str(films / "red.mp4")])
    stretch = ConceptExample(path=str(link), start=0, end=1)
    blues: list[ExampleLike] = [stretch, link, films / "blue.mp4", "blue.mp4"]
    assert len(engine.teach("blues", yes=blues).yes) == 2, "a link, its video and the end of its path are one"
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VidretError, match=r"empty.mp4: must be an image or a video of the index"):
        engine.teach("none", yes=[tmp_path / "empty.mp4"])


def test_the_vector_of_a_video_is_the_mean_of_its_segments(engine: Engine) -> None:
    with Store.open(engine.path) as store:
        video_ids, vectors = average_segments(store)
        assert video_ids.tolist() == sorted(video.id for video in engine.videos())
        for video_id, vector in zip(video_ids.tolist(), vectors, strict=True):
            _, rows = store.features.intact_vectors(np.array(store.segments.ids_of_video(video_id)))
            mean = sum(rows.astype(np.float64)) / len(rows)
            np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_saved_classes_are_searched_as_they_were_found_and_replaced(engine: Engine, films: Path) -> None:
    classes: dict[str, list[ExampleLike]] = {
        "Red things": [paint("red"), films / "red.mp4"],
        "blue": [paint("blue"), films / "blue.mp4"],
    }
    engine.classify(classes, save="kind")
    assert [concept.name for concept in engine.concepts()] == ["kind-blue", "kind-red-things"]
    concept = engine.concepts()[1]
    assert (concept.text, len(concept.yes)) == ("Red things", 2)
    with Store.open(engine.path) as store:
        found = classify_videos(store, ColourEncoder(), classes)
        for row, name in enumerate(("red-things", "blue")):
            assert engine.search(f"@kind-{name}", 1)[0].video == found.video_ids[found.logits[:, row].argmax()]
        taught = load_concept(store, "kind-red-things")
        assert taught is not None
        assert taught.direction is not None
        np.testing.assert_allclose(taught.direction, found.directions[0], rtol=1e-4, atol=1e-4)
        sample = engine._index.encoder.composer.sample
        text = ColourEncoder().encode_text(["Red things"])[0].sentence
        vector, _ = engine._index.encoder.compose_concepts([(taught, text)])
        spread = 1 if not sample.measure_spread(text) else 2 / sample.measure_spread(text)
        expected = spread * text + found.directions[0]
        cosine = vector @ expected / np.linalg.norm(vector) / np.linalg.norm(expected)
        assert cosine > 0.99, "the weights of the class's logits"
    engine.classify({"red things": [paint("red")], "blue": [paint("blue")]}, save="@Kind")
    assert len(engine.concepts()[1].yes) == 1
    engine.classify({"a": [paint("red")], "b": [paint("blue")]}, save="kind-of")
    engine.teach("kind-taught", [paint("red")])
    engine.classify({"Grün & _x": [paint("green")], "red": [paint("red")]}, save="kind")
    others = ["kind-of-a", "kind-of-b", "kind-taught"]
    assert [concept.name for concept in engine.concepts()] == ["kind-grün-_x", *others[:2], "kind-red", others[2]]
    engine.classify({"red": [paint("red")], "blue": [paint("blue")]}, save="kind")
    assert {concept.name for concept in engine.concepts()} == {"kind-blue", "kind-red", *others}


def test_a_class_to_which_examples_are_added_is_taught_from_then_on(engine: Engine, films: Path) -> None:
    engine.classify({"red": [paint("red")], "blue": [paint("blue")]}, save="kind")
    concept: Concept = engine.teach("kind-red", [films / "yellow.mp4"], add=True)
    assert len(concept.yes) == 2
    with pytest.raises(VidretError, match="@kind-red is taught already: forget it"):
        engine.classify({"red": [paint("red")], "blue": [paint("blue")]}, save="kind")
    assert [len(taught.yes) for taught in engine.concepts()] == [1, 2], "nothing was replaced"


def test_wrong_classes_are_refused(engine: Engine, films: Path, tmp_path: Path) -> None:
    red, blue = [paint("red")], [paint("blue")]
    late = [ConceptExample(path=str(films / "red.mp4"), start=50, end=60)]
    refused: tuple[tuple[dict[str, Any], str | None, str], ...] = (
        ({"red": red}, None, "classes must be two or more, got red"),
        ({"red": red, "blue": []}, None, "class blue must have an example, got none"),
        ({"red": red, "blue": "blue.mp4"}, None, "class blue must be a list, got 'blue.mp4'"),
        ({"red": red, "blue": blue}, "1", "name must be a letter"),
        ({"a b": red, "a-b": blue}, "kind", "classes must have different names, got a b, a-b"),
        ({"red": late, "blue": blue}, None, "the index has no frame from 50 to 60 s"),
    )
    for classes, save, message in refused:
        with pytest.raises(VidretError, match=message):
            engine.classify(classes, save=save)
    (tmp_path / "bad.mp4").write_text("no video")
    with Engine(tmp_path / "empty", ColourEncoder()) as empty:
        empty.index([tmp_path / "bad.mp4"])
        with pytest.raises(VidretError, match="the index must hold a video, got none"):
            empty.classify({"red": red, "blue": blue})
