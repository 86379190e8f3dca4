"""Find the two videos with the most alike segments: python examples/alike_segments.py INDEX."""

import sys

import numpy as np

from vidret import Engine


def main(index: str) -> None:
    """Print both stretches and their cosine."""
    with Engine.open(index) as engine:
        table = engine.embeddings()
    cosines = table.vectors @ table.vectors.T
    cosines[table.videos[:, None] == table.videos] = -1
    for row in np.unravel_index(cosines.argmax(), cosines.shape):
        start, end = table.times[row]
        print(f"{table.paths[row]}  {start:.1f} to {end:.1f} s")
    print(f"cosine {cosines.max():.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
