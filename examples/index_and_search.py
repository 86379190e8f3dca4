"""Index a folder, find videos, locate moments: python examples/index_and_search.py VIDEOS INDEX "a dog on a beach"."""

import sys

from vidret import Engine


def main(videos: str, index: str, query: str) -> None:
    """Print the three best videos and moments."""
    with Engine.open(index) as engine:
        report = engine.index([videos])
        print(f"{report.encoded} videos indexed, {len(report.failed)} failed")
        for hit in engine.search(query, k=3):
            print(f"video   {hit.path}  {hit.likelihood}, best at {hit.time:.1f} s")
        for moment in engine.locate(query, k=3):
            print(f"moment  {moment.path}  {moment.start:.1f} to {moment.end:.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
