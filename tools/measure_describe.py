"""Measure how many planted differences between folders ``vidret describe`` names first.

    python tools/measure_describe.py REALSET TALKSET [--work FOLDER]

REALSET and TALKSET are folders with videos and their truth in captions.jsonl and films.jsonl. Ten pairs of folders are
made from them. Six differ in the kind of scene: the clips of which a caption has a word of the kind, and the others.
Two differ in speech and two in text on the screen: pieces of films between the true times of their words, and films
with and without their sound. Words are read for these four alone. A difference is named first if the first phrase
that is more true of the folder is one that was listed here before anything was measured. ``--work`` keeps the folders
and their indexes for the next run.
"""

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidret import Engine
from vidret.corpus.describing import describe_folder
from vidret.corpus.phrases import Phrase
from vidret.present.ffmpeg import find_ffmpeg
from vidret.store.store import Store

MIN_PIECE_S = 1.5
MARGIN_S = 0.2  # between a piece and words that it must not have
ENCODE = ("-c:v", "libx264", "-preset", "veryfast", "-c:a", "aac", "-threads", "1")


@dataclass(frozen=True, slots=True)
class Planted:
    """A planted difference: its name, and a pattern of the phrases that name it, with their kinds."""

    name: str
    kind: str
    pattern: str

    def is_named(self, phrase: Phrase) -> bool:
        """Return whether a phrase names the difference."""
        return phrase.kind == self.kind and re.search(self.pattern, phrase.text) is not None


# The words of captions that decide which clips a folder gets, and the phrases that name it.
SCENES = {
    "food": (
        r"food|cook|dough|soup|meat|pie|icing|frosting|noodle|pasta|chocolate|berr|chef|herbs|fruit|dessert|wine|baker",
        r"food|cook|dough|soup|meat|pie\b|dessert|dish|kitchen|baking|making|bowl|pot\b|pan\b|pizza|burrito|guacamole|"
        r"bread|bak|cutting|peeling|frying|grilling|vegetable|fruit|meal|edible|mixing|stirring|eating|tasting|wok|spatula",
    ),
    "cars": (
        r"\b(car|cars|truck|jeep|convertible|ferrari|tesla|charger|suv|motorcycle|vehicle)\b",
        r"\bcars?\b|truck|jeep|convertible|vehicle|wagon|limousine|minivan|racer|pickup|van\b|driv|wheel|tractor|motor|"
        r"grille|cab\b|road|street|parking",
    ),
    "animals": (
        r"\b(dog|puppy|dachshund|retriever|cat|kitten|snake|turtle|dolphins?|lion|rhino|tortoises?|butterfl\w+|fish|birds?|"
        r"horses?|donkey|elephants?|monkeys?|cows?|pigs?|bunny|rabbit)\b",
        r"animal|dog|hound|terrier|retriever|spaniel|puppy|\bcat\b|feline|kitten|snake|turtle|tortoise|lion|reptile|insect|"
        r"butterfly|bird|mammal|carnivore|ungulate|rabbit|hare|monkey|ape\b|fish|lizard|wildlife|grooming|petting|riding",
    ),
    "water": (
        r"\b(sea|ocean|lake|river|stream|boat|ship|kayak|canoe|surfer?|wave|waves|underwater|beach|yacht|water)\b",
        r"water|\bsea|ocean|lake|river|boat|ship|kayak|canoe|surf|wave|beach|yacht|coast|shore|dock|pier|fish|dolphin|swim|"
        r"sail|dam\b|diving|ski|lifeguard|raft|catamaran|schooner|promontory|sandbar|geyser|vessel|liner|jet",
    ),
    "sports": (
        r"soccer|football|basketball|volleyball|golf|tennis|baseball|hockey|athlet|gymnast|climb|sport|match|stadium",
        r"soccer|football|basketball|volleyball|golf|tennis|baseball|hockey|athlet|gymnast|climb|sport|game|ball|kick|dunk|"
        r"goal|shoot|stadium|jump|throwing|catching|running|racket|player|playing",
    ),
    "animation": (
        "",
        r"animat|cartoon|comic|video game|web ?site|screen|monitor|television|toy|drawing|computer|controller|diagram|"
        r"render|graphic|pixel",
    ),
}
SPEECH, TEXT = Planted("speech", "said", "^speech$"), Planted("text", "shown", "^text on the screen$")


def plant_scenes(realset: Path, work: Path) -> Iterator[tuple[Planted, Path, Path]]:
    """Yield the differences in kind of scene, each with its folder and the folder of the others."""
    rows = [json.loads(line) for line in (realset / "captions.jsonl").read_text().splitlines()]
    for name, (words, phrases) in SCENES.items():
        ours, others = work / name, work / f"no-{name}"
        for row in rows:
            has_word = words and any(re.search(words, caption) for caption in row["captions"])
            is_ours = has_word if words else row["kind"] == name
            if row["kind"] == "real" or not words:
                link(realset / "videos" / row["video"], (ours if is_ours else others) / row["video"])
        yield Planted(name, "seen", phrases), ours, others


def plant_words(talkset: Path, work: Path) -> Iterator[tuple[Planted, Path, Path]]:
    """Yield the differences in speech and in text, each with its folder and the folder to compare with."""
    pieces = {name: work / f"pieces-{name}" for name in ("speech", "text", "neither")}
    films = [json.loads(line) for line in (talkset / "films.jsonl").read_text().splitlines()]
    for number, film in enumerate(films):
        path = talkset / "videos" / film["file"]
        for name, folder in pieces.items():
            if (span := find_piece(film, name)) is not None:
                run_ffmpeg(path, folder / film["file"], "-ss", f"{span[0]:.3f}", "-to", f"{span[1]:.3f}", *ENCODE)
        if number % 2:
            link(path, work / "with-sound" / film["file"])
        else:
            run_ffmpeg(path, work / "without-sound" / film["file"], "-c", "copy", "-an")
    yield SPEECH, pieces["speech"], pieces["neither"]
    yield SPEECH, work / "with-sound", work / "without-sound"
    yield TEXT, pieces["text"], pieces["neither"]
    yield TEXT, pieces["text"], pieces["speech"]


def find_piece(film: dict[str, Any], name: str) -> tuple[float, float] | None:
    """Return the longest span in seconds of a film with nothing but speech, nothing but text, or neither of the two.

    A piece with words has all of an utterance or a part of a text's time; None if there is no piece long enough.
    """
    windows = {kind: [each["window"] for each in film["events"] if each["type"] == kind] for kind in ("speech", "text")}
    wanted = [(0.0, film["duration"])] if name == "neither" else windows[name]
    unwanted = [window for kind, listed in windows.items() if kind != name for window in listed]
    spans = [span for window in wanted for span in cut_out(tuple(window), unwanted)]
    if name == "speech":  # a part of an utterance would be half a word
        spans = [span for span in spans if list(span) in windows["speech"]]
    longest = max(spans, key=lambda span: span[1] - span[0], default=(0.0, 0.0))
    return longest if longest[1] - longest[0] >= MIN_PIECE_S else None


def cut_out(span: tuple[float, float], unwanted: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Return what remains of a span without other spans and a margin around them."""
    left = [span]
    for start, end in ((start - MARGIN_S, end + MARGIN_S) for start, end in unwanted):
        parts = [part for low, high in left for part in ((low, min(high, start)), (max(low, end), high))]
        left = [(low, high) for low, high in dict.fromkeys(parts) if low < high]
    return left


def link(source: Path, path: Path) -> None:
    """Copy a file to a path unless it is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)


def run_ffmpeg(source: Path, path: Path, *options: str) -> None:
    """Make a file from a source with ffmpeg unless it is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [find_ffmpeg(), "-nostdin", "-v", "error", "-y", "-i", str(source), *options, str(path)]
        subprocess.run(command, check=True)


def main() -> None:
    """Make the folders, index them, and print what is said first of each."""
    parser = argparse.ArgumentParser(description="Measure how many planted differences are named first.")
    parser.add_argument("realset", type=Path)
    parser.add_argument("talkset", type=Path)
    parser.add_argument("--work", type=Path, default=None, help="Folder for the videos and the index; default: new.")
    arguments = parser.parse_args()
    work = (arguments.work or Path(tempfile.mkdtemp(prefix="vidret-describe-"))).absolute()
    scenes, words = plant_scenes(arguments.realset, work / "scenes"), plant_words(arguments.talkset, work / "words")
    results = [*compare(work / "scenes", [*scenes], words=False), *compare(work / "words", [*words], words=True)]
    print(f"{sum(results)} of {len(results)} named first")


def compare(work: Path, planted: Sequence[tuple[Planted, Path, Path]], *, words: bool) -> Iterator[bool]:
    """Index folders, print what is said first of each planted difference, and yield whether that names it."""
    with Engine.open(work / "index") as engine:
        engine.index([str(work)], words=words)
        with Store.open(work / "index") as store:
            for difference, ours, others in planted:
                found = describe_folder(store, engine.encoder, str(ours), against=str(others), k=5)
                is_first = bool(found.more) and difference.is_named(found.more[0].phrase)
                listed = ", ".join(f"{each.phrase.text} {each.difference.auroc:.3f}" for each in found.more)
                sizes = f"{found.num_videos} against {found.num_others}"
                print(f"{'first' if is_first else 'MISSED':6}  {difference.name:10} {sizes:16} {listed}", flush=True)
                yield is_first


if __name__ == "__main__":
    main()
