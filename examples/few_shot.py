"""Teach a concept by an image or a video, and search for it: python examples/few_shot.py INDEX mascot EXAMPLE..."""

import sys

from vidret import Engine


def main(index: str, name: str, *examples: str) -> None:
    """Print what the concept finds."""
    with Engine.open(index) as engine:
        concept = engine.teach(name, yes=examples, replace=True)
        print(f"@{concept.name}: weight of the examples {concept.share:.2f}, of the name {1 - concept.share:.2f}")
        for hit in engine.search(f"@{name}", k=3):
            print(f"{hit.path}  {hit.likelihood}")


if __name__ == "__main__":
    main(*sys.argv[1:])
