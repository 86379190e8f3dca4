"""Measure recall on captions of your own: python examples/evaluate_search.py INDEX captions.jsonl.

Each line of the file has a video and its caption: {"video": "trip/a.mp4", "caption": "a dog on a beach"}.
"""

import json
import sys
from pathlib import Path

from vidret import Engine


def main(index: str, captions: str) -> None:
    """Print R@1, R@5 and R@10, and the captions whose video is not among the first ten."""
    rows = [json.loads(line) for line in Path(captions).read_text("utf-8").splitlines()]
    with Engine.open(index) as engine:
        found = [[hit.path for hit in engine.search(row["caption"], k=10)] for row in rows]
    ranks = [
        next((rank for rank, path in enumerate(paths, 1) if path.endswith("/" + row["video"])), 11)
        for row, paths in zip(rows, found, strict=True)
    ]
    for k in (1, 5, 10):
        print(f"R@{k}: {sum(rank <= k for rank in ranks) / len(ranks):.1%}")
    for row, rank in zip(rows, ranks, strict=True):
        if rank > 10:
            print("not found:", row["caption"])


if __name__ == "__main__":
    main(*sys.argv[1:])
