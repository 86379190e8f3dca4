"""Search with an encoder of your own: python examples/own_encoder.py VIDEOS INDEX red.

The command line finds it by name: PYTHONPATH=examples vidret index VIDEOS --model colour_encoder:ColourNames.
"""

import sys

from colour_encoder import ColourNames

from vidret import Engine


def main(videos: str, index: str, query: str) -> None:
    """Print the best video of each colour."""
    with Engine.open(index, encoder=ColourNames()) as engine:
        engine.index([videos])
        for hit in engine.search(query, k=3):
            print(f"{hit.path}  {hit.likelihood}")


if __name__ == "__main__":
    main(*sys.argv[1:])
