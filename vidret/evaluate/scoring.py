"""A predictions file of anyone's model against the truth."""

from pathlib import Path
from typing import Any

from vidret.data.records import Split
from vidret.errors import VidretError
from vidret.evaluate.moments import drop_queries, score_predicted, score_saliency
from vidret.metrics.predictions import read_predictions


def score_predictions(path: Path, split: Split) -> dict[str, Any]:
    """Score what a file predicts: spans where it has them, saliency where it has that and the split has ratings.

    Raises:
        VidretError: The file cannot be read, or does not answer each query of the split.
    """
    predictions = read_predictions(path)
    if all(query.spans for query in split.queries) and all(each.spans is not None for each in predictions):
        return score_predicted(split.name, split.queries, predictions)
    if all(query.saliency for query in split.queries) and all(each.saliency is not None for each in predictions):
        return {"highlights": drop_queries(score_saliency(split.name, split.queries, predictions).to_dict())}
    raise VidretError(f"{path}: must have, for each query, what {split.name} has labels for: windows or saliency")
