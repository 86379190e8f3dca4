"""Write moments for an editing program: python examples/cutting_list.py INDEX "a dog" dogs.edl.

The suffix chooses the format: .edl, .fcpxml, .otio (extra editors), .csv, .json or .srt.
"""

import sys

from vidret import Engine
from vidret.present.export import write_moments


def main(index: str, query: str, out: str) -> None:
    """Write the ten best moments."""
    with Engine.open(index) as engine:
        moments = engine.locate(query, k=10)
    write_moments(moments, out, query=query, handles_s=1.0 if out.endswith((".edl", ".fcpxml", ".otio")) else 0.0)
    print(f"{len(moments)} moments in {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])
