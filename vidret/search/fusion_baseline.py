"""What unrelated queries reach in each source of an index, which makes scores of different sources comparable."""

import json
from dataclasses import dataclass, field

from vidret.search.text_matching import TextBaseline
from vidret.store.text_store import TextStore
from vidret.types import TextSource

_KEY = "fusion"


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionBaseline:
    """What unrelated queries reach at best in each source of an index: mean and standard deviation.

    ``sizes`` are the numbers of segments and texts that it was measured on.
    """

    sizes: tuple[int, int]
    picture_mean: float = 0.0
    picture_deviation: float = 1.0
    texts: dict[TextSource, TextBaseline] = field(default_factory=dict)


def load_baseline(texts: TextStore) -> FusionBaseline | None:
    """Return the baseline that is stored with the texts of an index; None if there is none."""
    stored = texts.store.get_meta(_KEY)
    if not stored:
        return None
    facts = json.loads(stored)
    return FusionBaseline(
        sizes=tuple(facts["sizes"]),
        picture_mean=facts["picture"][0],
        picture_deviation=facts["picture"][1],
        texts={source: TextBaseline(*figures) for source, figures in facts["texts"].items()},
    )


def forget_baseline(texts: TextStore) -> None:
    """Remove the baseline, as the vectors of the pictures are about to change."""
    texts.store.set_meta(_KEY, "")


def store_baseline(texts: TextStore, baseline: FusionBaseline) -> None:
    """Store a baseline with the texts of an index."""
    figures = {
        source: [each.cosine_mean, each.cosine_deviation, each.cover_mean, each.cover_deviation]
        for source, each in baseline.texts.items()
    }
    picture = [baseline.picture_mean, baseline.picture_deviation]
    texts.store.set_meta(_KEY, json.dumps({"sizes": baseline.sizes, "picture": picture, "texts": figures}))
