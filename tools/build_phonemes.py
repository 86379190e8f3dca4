"""Train how words sound in vidret/store/texts/phonemes.py, and measure how well misheard phrases are found.

    apt-get install espeak-ng flite
    apt-get download pocketsphinx-en-us && dpkg -x pocketsphinx-en-us_*.deb sphinx
    python tools/build_phonemes.py sphinx/usr/share/pocketsphinx/model/en-us/cmudict-en-us.dict --work work

The dictionary (CMU, two-clause BSD licence) is used for training only. Captions of tools/starter_captions.jsonl are
said by the voices of two synthesisers, with noise, and recognised by the bundled speech model; ``--work`` keeps what it
heard. The odds of mishearing are counted on most of the voices and measured on the others: a query is up to four
adjacent words of which one at least was misheard, and the text is to be found among all texts of these voices.
"""

import json
import math
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from harness import make_parser, print_json
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import ctc_loss, relu

from vidret.channels.speech import SAMPLE_RATE, SpeechRecogniser
from vidret.encode.sentences import RARE_SHARE, find_word_share
from vidret.store.texts import phonemes
from vidret.store.texts.phonemes import PHONEMES, SYMBOLS, align_phonemes, encode_letters, pronounce
from vidret.video.audio import read_audio

WIDTH, EPOCHS, BATCH, RATE, NUM_TESTED = 160, 8, 256, 4e-3, 3000
REPEATS = 4  # of words of the vocabulary in an epoch: frequent words are irregular
ESPEAK = "en-us+m3 en-us+f3 en-gb en-gb-scotland en-gb-x-rp en-029 en-gb+f2 en-gb-x-gbclan en-us+m7 en-gb-x-gbcwmd"
FLITE = "kal16 awb rms slt kal"
KEPT = {"en-gb-x-rp", "en-gb-scotland", "rms", "en-us+f3", "kal"}  # voices for measuring
SIGNAL_TO_NOISE_DB = (100, 20, 10, 5)
NUM_SENTENCES, ROUNDS = 2400, 3
PRIOR = 30.0  # weight of chance among counted pairs
STOP_WORDS = {
    "a",
    "an",
    "the",
    "of",
    "in",
    "on",
    "at",
    "to",
    "is",
    "are",
    "be",
    "it",
    "its",
    "and",
    "or",
    "with",
    "for",
    "by",
    "from",
    "as",
    "that",
    "this",
    "there",
    "he",
    "she",
    "his",
}
DEFAULT_WORK = Path("phonemes-work")


class Network(nn.Module):
    """The network as ``phonemes`` computes it, in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(phonemes.NUM_LETTERS, WIDTH, 7)
        self.second = nn.Conv1d(WIDTH, WIDTH, 3)
        self.third = nn.Conv1d(WIDTH, 2 * (len(SYMBOLS) + 1), 3)

    def forward(self, letters: Tensor) -> Tensor:
        """Return log-probabilities (word, output, class) of one-hot letters (word, place, letter)."""
        states = relu(self.first(letters.transpose(1, 2)))
        states = relu(self.second(states)) + states[..., 1:-1]
        logits: Tensor = self.third(states).transpose(1, 2)
        return logits.reshape(len(letters), -1, len(SYMBOLS) + 1).log_softmax(-1)


class Heard(NamedTuple):
    """A sentence, the voice that said it, and what the recogniser heard."""

    said: str
    heard: str
    voice: str


def read_dictionary(path: Path) -> list[tuple[str, list[int]]]:
    """Return words of the letters a to z, with the classes of their phonemes."""
    entries = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    classes = {phoneme: number for number, phoneme in enumerate(PHONEMES.split(), 1)}
    cleaned = ((word.replace("'", ""), sounds) for word, *sounds in entries if "(" not in word)
    return [(word, [classes[sound] for sound in sounds]) for word, sounds in cleaned if re.fullmatch("[a-z]+", word)]


def train(words: Sequence[tuple[str, list[int]]]) -> dict[str, np.ndarray]:
    """Return the weights of a trained network."""
    torch.manual_seed(0)
    random, network = Random(0), Network()
    words = [entry for entry in words for _ in range(REPEATS if find_word_share(entry[0]) > RARE_SHARE else 1)]
    num_batches = len(words) // BATCH
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=num_batches * EPOCHS)
    for epoch in range(EPOCHS):
        started, total = time.monotonic(), 0.0
        shuffled = random.sample(words, len(words))
        for number in range(num_batches):
            batch = shuffled[number * BATCH : (number + 1) * BATCH]
            outputs = network(torch.from_numpy(encode_letters([word for word, _ in batch]))).transpose(0, 1)
            targets = torch.tensor([sound for _, sounds in batch for sound in sounds])
            num_outputs = torch.tensor([2 * len(word) for word, _ in batch])
            num_sounds = torch.tensor([len(sounds) for _, sounds in batch])
            loss = ctc_loss(outputs, targets, num_outputs, num_sounds, zero_infinity=True)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch}: loss {total / num_batches:.3f}, {time.monotonic() - started:.0f} s", flush=True)
    return {name: weight.detach().numpy().astype(np.float16) for name, weight in network.named_parameters()}


def count_errors(words: Sequence[tuple[str, list[int]]]) -> float:
    """Return the errors of the network, in percent of the phonemes."""
    pronounced = pronounce([word for word, _ in words])
    truths = ["".join(SYMBOLS[sound - 1] for sound in sounds) for _, sounds in words]
    from rapidfuzz.distance import Levenshtein

    errors = sum(map(Levenshtein.distance, pronounced, truths))
    return 100 * errors / sum(map(len, truths))


def say(work: Path) -> Iterator[Heard]:
    """Yield sentences as they were heard."""
    lines = Path("tools/starter_captions.jsonl").read_text(encoding="utf-8").splitlines()
    sentences = [text for line in lines for text in json.loads(line)["texts"] if 6 <= len(text.split()) <= 16]
    sentences = Random(7).sample(sentences, NUM_SENTENCES)
    voices = [*(("espeak-ng", "-v", name) for name in ESPEAK.split()), *(("flite", "-voice", n) for n in FLITE.split())]
    work.mkdir(parents=True, exist_ok=True)
    path, recogniser = work / "heard.jsonl", SpeechRecogniser()
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    yield from (Heard(*json.loads(line)) for line in known[:NUM_SENTENCES])
    with path.open("a", encoding="utf-8") as file:
        for number in range(len(known), len(sentences)):
            program, option, voice = voices[number % len(voices)]
            spoken = synthesise(work, program, option, voice, sentences[number])
            random = np.random.default_rng(number)
            noise = math.sqrt(np.mean(spoken**2) / 10 ** (SIGNAL_TO_NOISE_DB[number % 4] / 10))
            spoken = (spoken + noise * random.standard_normal(len(spoken))).astype(np.float32)
            texts = [text.text for text in recogniser.transcribe(spoken, 0.0)]
            heard = Heard(sentences[number], " ".join(texts), voice)
            file.write(json.dumps(heard) + "\n")
            file.flush()
            yield heard


def synthesise(work: Path, program: str, option: str, voice: str, sentence: str) -> np.ndarray:
    """Return a sentence as said by a voice, with half a second of silence around it."""
    path = work / "sentence.wav"
    arguments = ["-w", str(path), sentence] if program == "espeak-ng" else ["-t", sentence, "-o", str(path)]
    subprocess.run([program, option, voice, *arguments], check=True)
    silence = np.zeros(SAMPLE_RATE // 2, np.float32)
    return np.concatenate([silence, *(samples for _, samples in read_audio(str(path), SAMPLE_RATE)), silence])


def count_odds(pairs: Sequence[tuple[str, str]]) -> dict[str, np.ndarray]:
    """Return the odds of one phoneme for another, and for none, in nats, from aligned pairs of phonemes."""
    coded = [([SYMBOLS.index(c) for c in said], [SYMBOLS.index(c) for c in heard]) for said, heard in pairs]
    size = len(SYMBOLS)
    share = 1.0 + np.bincount([code for said, heard in coded for code in (*said, *heard)], minlength=size)
    share /= share.sum()
    chance = np.outer(share, share)
    substitution, gap = 3.5 * np.eye(size) - 1.5, np.full(size, -2.0)
    for _ in range(ROUNDS):
        paired, single = np.zeros((size, size)), np.zeros(size)
        for said, heard in coded:
            for code, other in align(said, heard, substitution, gap):
                if code is not None and other is not None:
                    paired[code, other] += 1
                else:
                    single[other if code is None else code] += 1
        both = paired + paired.T
        substitution = np.log((both + PRIOR * chance) / (both.sum() + PRIOR) / chance)
        substitution += math.log(2 * paired.sum() / (2 * paired.sum() + single.sum()))
        mean = single.sum() / (both.sum() + single.sum())
        gap = np.log((single + 4 * mean) / (both.sum(axis=1) + single + 4))
    return {"substitution": substitution.astype(np.float32), "gap": gap.astype(np.float32)}


def align(
    said: Sequence[int], heard: Sequence[int], substitution: np.ndarray, gap: np.ndarray
) -> Iterator[tuple[int | None, int | None]]:
    """Yield the pairs of the best alignment of two whole sequences, with None for a missing phoneme."""
    best = np.zeros((len(said) + 1, len(heard) + 1))
    best[1:, 0], best[0, 1:] = np.cumsum(gap[said]), np.cumsum(gap[heard])
    costs, said_gaps, heard_gaps = substitution[np.ix_(said, heard)].tolist(), gap[said].tolist(), gap[heard].tolist()
    rows = best.tolist()
    for i in range(1, len(said) + 1):
        for j in range(1, len(heard) + 1):
            rows[i][j] = max(
                rows[i - 1][j - 1] + costs[i - 1][j - 1],
                rows[i - 1][j] + said_gaps[i - 1],
                rows[i][j - 1] + heard_gaps[j - 1],
            )
    i, j = len(said), len(heard)
    while i or j:
        if i and j and rows[i][j] == rows[i - 1][j - 1] + costs[i - 1][j - 1]:
            i, j = i - 1, j - 1
            yield said[i], heard[j]
        elif i and (not j or rows[i][j] == rows[i - 1][j] + said_gaps[i - 1]):
            i -= 1
            yield said[i], None
        else:
            j -= 1
            yield None, heard[j]


def measure(kept: Sequence[Heard]) -> dict[str, object]:
    """Return how often misheard phrases find their sentence first, and a fit of evidence to the alignment."""
    random, texts = Random(1), pronounce([sentence.heard for sentence in kept])
    firsts: dict[int, list[bool]] = {}
    scores, labels = list[float](), list[bool]()
    for row, sentence in enumerate(kept):
        words, heard = sentence.said.lower().split(), set(re.findall(r"[a-z]+", sentence.heard.lower()))
        size = random.randint(1, 4)
        starts = [
            start
            for start in range(len(words) - size + 1)
            if any(word not in heard and word not in STOP_WORDS for word in words[start : start + size])
        ]
        if not starts:
            continue
        start = random.choice(starts)
        phrase = words[start : start + size]
        evidence = align_phonemes(pronounce([" ".join(phrase)])[0], texts)
        others = [
            other
            for other, candidate in enumerate(kept)
            if other != row and not any(w in candidate.said.lower() for w in phrase if w not in STOP_WORDS)
        ]
        firsts.setdefault(size, []).append(bool(evidence[row] > evidence[others].max()))
        scores += [evidence[row], *evidence[others]]
        labels += [True, *(False for _ in others)]
    found, true = np.array(scores), np.array(labels)
    tails = {
        level: round(math.log((found[true] >= level).mean() / max((found[~true] >= level).mean(), 1e-9)), 2)
        for level in range(0, 15, 2)
    }
    first = {str(size): [round(100 * float(np.mean(hits)), 1), len(hits)] for size, hits in sorted(firsts.items())}
    return {"texts": len(kept), "first_percent_and_queries_by_words": first, "log_odds_of_exceeding": tails}


def main() -> None:
    """Train, count and measure."""
    parser = make_parser(__doc__, "dictionary", work=DEFAULT_WORK)
    given = parser.parse_args()
    words = read_dictionary(given.dictionary)
    Random(0).shuffle(words)
    weights = given.work / "network.safetensors"
    heard = [sentence for sentence in say(given.work) if sentence.heard]
    if not weights.exists():
        save_file(train(words[NUM_TESTED:]), weights)
    network = load_file(weights)
    save_file(
        {**network, "substitution": np.eye(39, dtype=np.float32), "gap": np.zeros(39, np.float32)}, phonemes.WEIGHTS
    )
    pairs = [(sentence.said, sentence.heard) for sentence in heard if sentence.voice not in KEPT]
    said, recognised = (pronounce(texts) for texts in zip(*pairs, strict=True))
    odds = count_odds(list(zip(said, recognised, strict=True)))
    save_file({**network, **odds}, phonemes.WEIGHTS, metadata={"tool": "tools/build_phonemes.py"})
    phonemes._load.cache_clear()
    kept = [sentence for sentence in heard if sentence.voice in KEPT]
    print_json({"errors_percent": count_errors(words[:NUM_TESTED]), "sentences": len(pairs), **measure(kept)})


if __name__ == "__main__":
    main()
