"""How much of what is nearest a search for candidates finds: measured against exact search, in the index itself.

An index that is searched by lists or compressed vectors misses some of the nearest segments, and nothing tells: scores
look as they always do. How many it misses depends on how close together its vectors are, hence on the index itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64

from vidret.errors import StoreError
from vidret.store.store import Store

BEST = 10
LOW = 0.95  # below, a person may notice
SAMPLE = 1000
BLOCK = 8192  # segments compared at a time: 24 MB for 512 dimensions, and 40 MB of scores for 1,100 queries
TOGETHER = 64  # queries searched for at a time

# What people look for in everyday videos, from the far apart to the nearly same.
QUERIES = tuple(
    """\
a dog runs along the beach
a dog catches a frisbee in a park
a puppy sleeps on a sofa
a cat jumps onto a table
a cat looks out of the window
a cat drinks water from a tap
birds eat seeds from a feeder
ducks swim on a pond
a horse gallops across a field
cows graze on a meadow
a squirrel climbs a tree
fish swim in an aquarium
a butterfly sits on a flower
a monkey peels a banana
a bear walks through the forest
a baby laughs in a high chair
a toddler takes the first steps
children play on a playground
a child blows out candles on a birthday cake
a girl rides a bicycle
a boy kicks a ball against a wall
kids jump on a trampoline
a family sits at a dinner table
a couple dances at their wedding
a bride walks down the aisle
friends raise their glasses
people sing around a campfire
grandparents open a present
a man plays the guitar
a woman plays the piano
a band plays on a stage
a drummer plays a solo
a choir sings in a church
a street musician plays the saxophone
people dance in a club
a ballet dancer turns on her toes
a man talks to the camera
a woman puts on makeup
a teacher writes on a blackboard
a speaker stands at a lectern
journalists ask questions at a press conference
people sit in a meeting room
someone types on a laptop
hands write with a pen on paper
a man paints a wall
a woman sews a dress
a carpenter saws a board
a mechanic repairs a car engine
a man changes a bicycle tyre
someone assembles a piece of furniture
a woman waters plants in a garden
a man mows the lawn
a person shovels snow
someone washes a car
a person folds laundry
a man cooks in a kitchen
someone chops vegetables on a board
pancakes are turned in a pan
a chef decorates a plate
meat is grilled on a barbecue
dough is kneaded by hand
coffee is poured into a cup
a cake comes out of the oven
people eat in a restaurant
a market with fruit and vegetables
a football player scores a goal
a basketball goes through the hoop
tennis players on a court
a swimmer dives into a pool
runners start a race
a gymnast on the balance beam
a skier goes down a slope
snowboarders jump over a ramp
a skateboarder slides along a rail
surfers wait for a wave
a man lifts weights in a gym
a woman does yoga on a mat
a boxer hits a bag
a climber hangs on a rock face
cyclists ride up a mountain road
a car drives along a motorway
traffic at a busy crossing
a motorcycle on a winding road
a train passes through the countryside
passengers get off a bus
a plane takes off
a boat crosses a lake
a view from the window of an aeroplane
a helicopter hovers over a field
people walk along a shopping street
a crowd at a concert
fireworks light up the night sky
a city seen from above
skyscrapers at night
rain falls on a window
waves break on rocks
a waterfall in a forest
the sun sets over the sea
clouds move over mountains
leaves fall from a tree in autumn
snow covers the roofs of a village
a fire burns in a fireplace
a cartoon character speaks
the score of a video game
""".splitlines()
)


@dataclass(frozen=True, slots=True)
class Recall:
    """What share of the ``BEST`` segments nearest a query a search finds, as the mean over queries.

    ``searched`` is among the best of the ``candidates`` that an engine asks for, and what a verdict is about;
    ``asked`` is among as many as were asked for alone, which looks less far; ``within`` is among all the candidates,
    which an engine looks at again: what is missing there cannot be found by it at all.
    """

    num_queries: int
    num_segments: int
    candidates: int
    searched: float
    asked: float
    within: float

    @property
    def low(self) -> bool:
        """Say whether so much is missed that it matters."""
        return self.searched < LOW


def sample_vectors(store: Store, *, num: int = SAMPLE, seed: int = 0) -> Float32[np.ndarray, "query dim"]:
    """Give the vectors of segments drawn by a seed, of all where there are not so many."""
    ids = store.searchable()
    chosen = np.random.default_rng(seed).choice(len(ids), min(num, len(ids)), replace=False)
    return store.vectors(np.sort(ids[chosen])).astype(np.float32)


def measure_recall(
    store: Store,
    queries: Mapping[str, Float[np.ndarray, "query dim"]],
    *,
    candidates: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Recall]:
    """Search an index for vectors, compare each with every stored vector, and say how much of the nearest was found.

    The exact scores are inner products in float32 of the rows as they are stored, read a block at a time. A segment
    that was found counts when its exact score is not below the tenth best by more than half a float16's last place
    there: what rounding to float16 could not tell apart is equally near. A vector's own segment counts like any other.

    Args:
        store: The index, whatever searches it.
        queries: Vectors by the name of their kind, for each of which the result has an answer.
        candidates: How many segments an engine asks for.
        on_progress: Called with the number of queries searched for and segments compared, and of all.

    Raises:
        StoreError: The index is empty, or a stored vector is damaged.
    """
    ids = store.searchable()
    if not len(ids):
        raise StoreError(f"{store.path}: there must be a segment to measure, got an empty index")
    every = np.concatenate([np.asarray(each, np.float32) for each in queries.values()])
    told, total = on_progress or (lambda _done, _total: None), len(every) + len(ids)
    found: list[Int64[np.ndarray, "query k"]] = []
    for first in range(0, len(every), TOGETHER):
        part = every[first : first + TOGETHER]
        found.append(np.hstack([store.search(part, k)[1] for k in (candidates, BEST)]))
        told(first + len(part), total)
    scores, tenth = _compare(store, every, ids, np.concatenate(found), lambda done: told(len(every) + done, total))
    num_best = min(BEST, len(ids))
    slack = np.abs(np.spacing(tenth.astype(np.float16))).astype(np.float32) / 2
    near = scores >= (tenth - slack)[:, None]
    shares = [
        np.minimum(part.sum(axis=1), num_best) / num_best
        for part in (near[:, :candidates][:, :BEST], near[:, candidates:], near[:, :candidates])
    ]
    ends = np.cumsum([len(each) for each in queries.values()])
    means = [[float(part.mean()) for part in np.split(share, ends[:-1])] for share in shares]
    return {
        name: Recall(len(each), len(ids), candidates, *own)
        for (name, each), *own in zip(queries.items(), *means, strict=True)
    }


def _compare(
    store: Store,
    queries: Float32[np.ndarray, "query dim"],
    ids: Int64[np.ndarray, " segment"],
    found: Int64[np.ndarray, "query k"],
    told: Callable[[int], None],
) -> tuple[Float32[np.ndarray, "query k"], Float32[np.ndarray, " query"]]:
    """Give the exact scores of what was found, -inf where nothing was, and each query's tenth best of all."""
    scores = np.full(found.shape, -np.inf, np.float32)
    best = np.full((len(queries), min(BEST, len(ids))), -np.inf, np.float32)
    for first in range(0, len(ids), BLOCK):
        block = ids[first : first + BLOCK]
        exact = queries @ store.vectors(block).astype(np.float32).T
        places = np.searchsorted(block, found).clip(max=len(block) - 1)
        here = block[places] == found
        rows = np.nonzero(here)[0]
        scores[here] = exact[rows, places[here]]
        best = np.partition(np.hstack([best, exact]), -best.shape[1], axis=1)[:, -best.shape[1] :]
        told(first + len(block))
    return scores, best.min(axis=1)
