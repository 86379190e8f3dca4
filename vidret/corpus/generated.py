"""Evaluation of generated videos: how well they match their prompts, and how real they look (STREAM).

References:
    Kim et al. 2024, "STREAM: Spatio-TempoRal Evaluation and Analysis Metric for Video Generative Models".
    Friedman and Dieng 2023, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning".
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from vidret.corpus.diversity import compute_vendi
from vidret.corpus.stream import CORRECTED_EXPONENT, NEAREST, compare_mean_signals, compare_spectra, measure_signals
from vidret.corpus.vectors import encode_phrases
from vidret.data.benchmarks.files import read_jsonl
from vidret.data.frames import read_indices
from vidret.encode.encoder import Encoder
from vidret.errors import VidretError
from vidret.search.browsing import choose_num_clusters, cluster_vectors
from vidret.text import absolute_path
from vidret.video.probe import probe
from vidret.video.scan import list_videos

NUM_FRAMES = 16  # of each video, evenly spaced: STREAM's default


def read_prompts(path: Path, folder: Path) -> tuple[dict[str, str], dict[str, str] | None]:
    """Return the prompt of each video of a folder, by path, and the topic of each prompt; None if they have none.

    The file has JSON lines with "prompt" and "video", the name of a file in the folder; a prompt may have several
    videos, and a "topic". Raise VidretError if a line is invalid, a prompt has no video, a video no prompt, or only
    some prompts a topic.
    """
    prompts, topics = dict[str, str](), dict[str, str | None]()
    for row in read_jsonl(path):
        video, prompt = absolute_path(folder / row.text("video")), row.text("prompt")
        if video in prompts:
            raise row.error(f"each video must be listed once, got {row.text('video')} again")
        prompts[video] = prompt
        topic = row.text("topic") if row.values.get("topic") is not None else None
        if topics.setdefault(prompt, topic) != topic:
            raise row.error(f"a prompt must have one topic, got two for {prompt!r}")
    files = list_videos([str(folder)]).files
    if missing := sorted(set(prompts) - set(files)):
        raise VidretError(f"{path}: each prompt must have its video, got none for {_name_first(missing)}")
    if extra := sorted(set(files) - set(prompts)):
        raise VidretError(f"{path}: each video must have its prompt, got none for {_name_first(extra)}")
    if not prompts:
        raise VidretError(f"{path}: must contain a prompt, got none")
    named = {prompt: topic for prompt, topic in topics.items() if topic is not None}
    if named and (lacking := topics.keys() - named.keys()):
        raise VidretError(f"{path}: all prompts must have a topic or none, got none for {min(lacking)!r}")
    return prompts, named or None


def evaluate_generated(
    encoder: Encoder,
    prompts: Mapping[str, str],
    real: Sequence[str] = (),
    *,
    topics: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score generated videos, given the prompt of each by path, by their frames.

    Without ``real`` videos, STREAM is left out; without ``topics``, prompts are clustered into topics. ``on_progress``
    is called with the number of videos encoded and the total.

    Returns:
        ``alignment`` (mean cosine of frames and prompt), ``prompt_recall`` (percentage of videos that fit their own
        prompt best), ``consistency`` (mean cosine of successive frames), ``stream`` if there are real videos, and
        ``prompts`` with these scores, the Vendi score and the videos of each, and ``topics`` with the means of their
        prompts, both with the worst alignment first.

    Raise VidretError if a video has too few frames, a vector is not finite, or a set is too small for STREAM.
    """
    if real and min(len(prompts), len(real)) <= NEAREST:
        sizes = f"{len(prompts)} generated and {len(real)} real"
        raise VidretError(f"STREAM needs at least {NEAREST + 1} videos of each kind, got {sizes}")
    total, vectors = len(prompts) + len(real), []
    for path in (*prompts, *real):
        vectors.append(read_frame_vectors(encoder, path))
        if on_progress is not None:
            on_progress(len(vectors), total)
    frames = np.stack(vectors[: len(prompts)])
    texts = list(dict.fromkeys(prompts.values()))
    prompt_indices = np.array([texts.index(prompt) for prompt in prompts.values()])
    vectors_of_texts = encode_phrases(encoder, texts)
    scores = frames.mean(axis=1) @ vectors_of_texts.T
    alignment = scores[np.arange(len(prompt_indices)), prompt_indices]
    consistency = (frames[:, 1:] * frames[:, :-1]).sum(axis=2).mean(axis=1)
    report: dict[str, Any] = {
        "num_videos": len(prompt_indices),
        "num_prompts": len(texts),
        "alignment": float(alignment.mean()),
        "prompt_recall": 100 * float((alignment >= scores.max(axis=1)).mean()),
        "consistency": float(consistency.mean()),
    }
    if real:
        report["stream"] = score_stream(np.stack(vectors[len(prompts) :]), frames)
    members: dict[int, list[int]] = defaultdict(list)
    for video, prompt in enumerate(prompt_indices.tolist()):
        members[prompt].append(video)
    named = find_topics(texts, vectors_of_texts) if topics is None else [topics[text] for text in texts]
    paths = list(prompts)
    rows = [
        {
            "prompt": texts[prompt],
            "topic": named[prompt],
            "num_videos": len(videos),
            "alignment": float(alignment[videos].mean()),
            "consistency": float(consistency[videos].mean()),
            "diversity": compute_vendi(frames[videos].mean(axis=1)),
            "videos": [
                {"path": paths[video], "alignment": float(alignment[video]), "consistency": float(consistency[video])}
                for video in sorted(videos, key=lambda video: alignment[video])
            ],
        }
        for prompt, videos in members.items()
    ]
    return {**report, "topics": rank_topics(rows), "prompts": sorted(rows, key=lambda row: row["alignment"])}


def score_stream(
    real: Float32[np.ndarray, "real frame dim"], generated: Float32[np.ndarray, "generated frame dim"]
) -> dict[str, float]:
    """Return STREAM of frame vectors of unit length, and STREAM-T of two halves of the real videos as a reference.

    ``temporal`` has the exponent of the published code, ``temporal_corrected`` that of the skewness.
    """
    real_signals, generated_signals = measure_signals(real), measure_signals(generated)
    corrected = [measure_signals(features, CORRECTED_EXPONENT).skewness for features in (real, generated)]
    spatial = compare_mean_signals(real_signals.mean_signal, generated_signals.mean_signal)
    return {
        "temporal": compare_spectra(real_signals.skewness, generated_signals.skewness),
        "temporal_corrected": compare_spectra(corrected[0], corrected[1]),
        "temporal_of_real_halves": compare_spectra(real_signals.skewness[::2], real_signals.skewness[1::2]),
        "fidelity": spatial.fidelity,
        "diversity": spatial.diversity,
    }


def read_frame_vectors(encoder: Encoder, path: str) -> Float32[np.ndarray, "frame dim"]:
    """Return the unit vectors of evenly spaced frames of a video."""
    info = probe(path)
    if info.num_frames < NUM_FRAMES:
        raise VidretError(f"{path}: must have at least {NUM_FRAMES} frames, got {info.num_frames}")
    indices = np.linspace(0, info.num_frames - 1, NUM_FRAMES).round().astype(np.int64)
    (embedding,) = encoder.encode_frames([read_indices(info, indices, encoder.resize)])
    vectors = np.asarray(embedding.frames, np.float32)
    if len(vectors) != NUM_FRAMES:
        raise VidretError(f"{encoder.name}: must have a vector for each frame, got {len(vectors)} for {NUM_FRAMES}")
    if not np.isfinite(vectors).all():
        raise VidretError(f"{path}: vectors must be finite, got NaN or infinity")
    return vectors


def _name_first(paths: Sequence[str]) -> str:
    """Return the name of the first of some files, and how many more there are."""
    return Path(paths[0]).name + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


MIN_PROMPTS = 8  # fewer are not divided into topics
NUM_WORDS = 3  # of a topic's name
WORD = re.compile(r"[^\W\d_]{3,}")
COMMON = frozenset(
    ("the", "and", "with", "from", "into", "onto", "over", "under", "that", "this", "there", "are", "was", "for", "its")
)


def find_topics(prompts: Sequence[str], vectors: Float32[np.ndarray, "prompt dim"]) -> list[str]:
    """Return the topic of each prompt: the cluster of its vector, named by the cluster's most distinctive words.

    Fewer than ``MIN_PROMPTS`` prompts share one topic without a name.
    """
    if len(prompts) < MIN_PROMPTS:
        return [""] * len(prompts)
    labels = cluster_vectors(vectors, choose_num_clusters(len(prompts)))
    words = [set(WORD.findall(prompt.lower())) - COMMON for prompt in prompts]
    overall = Counter(word for prompt_words in words for word in prompt_words)
    names = {}
    for label in range(int(labels.max()) + 1):
        members = [
            prompt_words for prompt_words, prompt_label in zip(words, labels, strict=True) if prompt_label == label
        ]
        counts = Counter(word for prompt_words in members for word in prompt_words)
        # The number of the topic's prompts that have a word, less the number expected by chance.
        gains = {word: count - overall[word] * len(members) / len(prompts) for word, count in counts.items()}
        best = sorted(gains, key=lambda word: (-gains[word], word))[:NUM_WORDS]
        names[label] = ", ".join(best)
    return [names[int(label)] for label in labels]


def rank_topics(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean scores of the prompts of each topic, worst alignment first; nothing if all have the same topic.

    ``below`` is how far the alignment is below the mean of all prompts, in standard errors of the mean of as many
    prompts; None if all prompts align equally well.
    """
    topics = list(dict.fromkeys(row["topic"] for row in rows))
    if len(topics) < 2:
        return []
    overall = np.array([row["alignment"] for row in rows])
    spread = float(overall.std())
    topic_scores = []
    for topic in topics:
        topic_rows = [row for row in rows if row["topic"] == topic]
        alignment = float(np.mean([row["alignment"] for row in topic_rows]))
        below = (float(overall.mean()) - alignment) / (spread / len(topic_rows) ** 0.5) if spread else None
        means = {name: float(np.mean([row[name] for row in topic_rows])) for name in ("consistency", "diversity")}
        counts = {"num_prompts": len(topic_rows), "num_videos": sum(row["num_videos"] for row in topic_rows)}
        topic_scores.append({"topic": topic, **counts, "alignment": alignment, "below": below, **means})
    return sorted(topic_scores, key=lambda row: (row["alignment"], row["topic"]))
