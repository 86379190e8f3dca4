"""Write the synthetic world.

    python tools/make_synthetic.py OUT [--seed 0] [--short 2000 200 500] [--films 200 40 40] [--size 96 64] [--frames 6]

OUT/msrvtt holds short captioned videos, OUT/qvhighlights long ones with moments, both with their annotation files; the
numbers are of train, val and test. A short video has --frames, two a second. Videos that are there already are not
drawn again.
"""

import sys
import time
from functools import partial
from pathlib import Path

from harness import make_parser
from worlds import write_grounding_world, write_retrieval_world

from vidret.errors import VidretError

FPS = 2


def main() -> None:
    """Write both worlds."""
    parser = make_parser(__doc__, seed=0, frames=6)
    parser.add_argument("out", type=Path)
    for name, counts in (("--short", (2000, 200, 500)), ("--films", (200, 40, 40))):
        parser.add_argument(name, type=int, nargs=3, default=counts, metavar=("TRAIN", "VAL", "TEST"))
    parser.add_argument("--size", type=int, nargs=2, default=(96, 64), metavar=("SHORT", "FILMS"), help="pixels a side")
    arguments = parser.parse_args()
    short, films = arguments.out / "msrvtt", arguments.out / "qvhighlights"
    seed = arguments.seed
    write_short = partial(write_retrieval_world, num_frames=arguments.frames, fps=FPS)
    try:
        for name, write, folder, counts, size in (
            ("short videos", write_short, short, arguments.short, arguments.size[0]),
            ("films", partial(write_grounding_world, fps=FPS), films, arguments.films, arguments.size[1]),
        ):
            started = time.perf_counter()
            num_drawn = write(folder, seed=seed, num_train=counts[0], num_val=counts[1], num_test=counts[2], size=size)
            seconds = time.perf_counter() - started
            print(f"{name}: {sum(counts)}, drawn now {num_drawn} in {seconds:.1f} s", file=sys.stderr)
    except VidretError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
