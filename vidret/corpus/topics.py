"""Topics of prompts: clusters of their vectors, with names, and how well the videos of each align."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from vidret.search.browsing import choose_num_clusters, cluster_vectors

MIN_PROMPTS = 8  # fewer are not divided into topics
NUM_WORDS = 3  # of a topic's name
WORD = re.compile(r"[^\W\d_]{3,}")
COMMON = frozenset(
    ("the", "and", "with", "from", "into", "onto", "over", "under", "that", "this", "there", "are", "was", "for", "its")
)


def find_topics(prompts: Sequence[str], vectors: Float32[np.ndarray, "prompt dim"]) -> list[str]:
    """Return the topic of each prompt: clusters of their vectors, named by words that set their prompts apart.

    Fewer than ``MIN_PROMPTS`` prompts are of one topic without a name.
    """
    if len(prompts) < MIN_PROMPTS:
        return [""] * len(prompts)
    labels = cluster_vectors(vectors, choose_num_clusters(len(prompts)))
    words = [set(WORD.findall(prompt.lower())) - COMMON for prompt in prompts]
    overall = Counter(word for own in words for word in own)
    names = {}
    for label in range(int(labels.max()) + 1):
        members = [own for own, other in zip(words, labels, strict=True) if other == label]
        counts = Counter(word for own in members for word in own)
        # How many prompts of the topic have a word, less how many would if topics did not matter.
        gains = {word: count - overall[word] * len(members) / len(prompts) for word, count in counts.items()}
        best = sorted(gains, key=lambda word: (-gains[word], word))[:NUM_WORDS]
        names[label] = ", ".join(best)
    return [names[int(label)] for label in labels]


def rank_topics(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the topics of rows of prompts with the means of their scores, the worst alignment first.

    ``below`` is how far the alignment is below the mean of all prompts, in standard errors of the mean of as many
    prompts; None if all prompts align equally well. There are no topics to compare if all prompts have the same one.
    """
    topics = list(dict.fromkeys(row["topic"] for row in rows))
    if len(topics) < 2:
        return []
    overall = np.array([row["alignment"] for row in rows])
    spread = float(overall.std())
    found = []
    for topic in topics:
        own = [row for row in rows if row["topic"] == topic]
        alignment = float(np.mean([row["alignment"] for row in own]))
        below = (float(overall.mean()) - alignment) / (spread / len(own) ** 0.5) if spread else None
        means = {name: float(np.mean([row[name] for row in own])) for name in ("consistency", "diversity")}
        counts = {"num_prompts": len(own), "num_videos": sum(row["num_videos"] for row in own)}
        found.append({"topic": topic, **counts, "alignment": alignment, "below": below, **means})
    return sorted(found, key=lambda row: (row["alignment"], row["topic"]))
