"""Search pictures and words together, and say what matched: python examples/combined_sources.py INDEX "second coat"."""

import sys

from vidret import Engine


def main(index: str, query: str) -> None:
    """Print each video with its evidence, and what pictures alone would have found."""
    with Engine.open(index) as engine:
        for hit in engine.search(query, k=3):
            print(f"{hit.path}  {hit.likelihood}")
            for evidence in hit.evidence:
                print(f"    {evidence.share:4.0%} {evidence.source} at {evidence.start:.1f} s  {evidence.text}")
        pictures = [hit.path for hit in engine.search(query, k=3, sources=["picture"])]
        print("by pictures alone:", ", ".join(pictures))


if __name__ == "__main__":
    main(*sys.argv[1:])
