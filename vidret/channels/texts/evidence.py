"""Evidence: how much likelier a score is where a video answers a query than where it does not.

Scores of different channels become comparable as log-likelihood ratios in nats. Each channel may be the one that a
query is about, so a video's evidence for a clause is the logarithm of the sum of the ratios of its channels: one strong
channel suffices, and one that has nothing to say changes nothing.

The constants were fitted by maximum likelihood on libraries of clips and films with speech and on-screen text, split by
video; docs/measured.md says how well they hold on the other half.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from vidret.channels.base import Clause
from vidret.channels.registry import KINDS
from vidret.channels.texts.matching import TextMatches
from vidret.types import TextSource

# Words that a text shares with a clause: nats for each nat of information that they carry, and for two in their order.
WORDS_OFFSET, WORDS_SLOPE, ADJACENT = -6.2, 1.8, 4.5
# Meaning: nats for cosines above the level of the clause; a text that is like every sentence is lowered.
MEANING_OFFSET, MEANING_SLOPE, HUBNESS = -4.9, 26.0, 0.35
MATCHES_HINT, MATCHES_REPORT = 2.0, 1.2  # what a clause that hints at a kind of words adds to it
SHORT = 4.3  # what a single word without a hint or quotes takes from words, since it mostly names a thing; n words 1/n
PRIOR_TEXTS = 30  # texts that the level of typical sentences counts for, beside those of the index


def rate_texts(
    clause: Clause, matches: TextMatches, sources: Sequence[TextSource], levels: Mapping[TextSource, float]
) -> Float64[np.ndarray, " text"]:
    """Return the evidence of texts of some sources for a clause.

    ``levels`` are the cosines that texts of each source have on average.
    """
    by_words = matches.cover * (WORDS_SLOPE * matches.information + ADJACENT * matches.num_adjacent)
    by_words += 0.0 if clause.phrases else WORDS_OFFSET  # who quotes words looks for words
    own_levels = np.array([levels[source] for source in sources], np.float64)
    by_meaning = MEANING_OFFSET + MEANING_SLOPE * (matches.cosines - own_levels - HUBNESS * matches.hubness)
    hint = MATCHES_HINT + clause.is_report * MATCHES_REPORT
    hints = {source: hint if hints_at(clause, source) else 0.0 for source in levels}
    by_meaning += np.array([hints[source] for source in sources], np.float64)
    loss = SHORT / max(matches.num_words, 1) if clause.source is None and not clause.phrases else 0.0
    rated: Float64[np.ndarray, " text"] = np.logaddexp(by_words, by_meaning) - loss
    return rated


def hints_at(clause: Clause, source: TextSource) -> bool:
    """Return whether a clause hints at a source; subtitles are speech that was written down."""
    return KINDS[source].is_asked_for(clause.source)
