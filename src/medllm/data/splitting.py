"""Draws and splits conversations; those of one cluster never stand on both sides."""

import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]


def mix(sources: Sequence[str], weights: dict[str, float], seed: int) -> Places:
    """Places of the largest mix whose sources stand to one another as their weights and which repeats nothing.

    Args:
        sources: The source of each conversation.
        weights: By source, positive; empty takes everything in its order.
        seed: Of the draw and of the order.
    """
    if not weights:
        return np.arange(len(sources))
    places: dict[str, list[int]] = defaultdict(list)
    for place, source in enumerate(sources):
        places[source].append(place)
    rng = random.Random(seed)
    unit = min(len(places[name]) / weight for name, weight in weights.items())
    drawn = [place for name, weight in weights.items() for place in rng.sample(places[name], int(unit * weight + 1e-9))]
    rng.shuffle(drawn)
    return np.array(drawn, dtype=np.int64)


def draw(total: int, count: int | None, seed: int) -> Places:
    """`count` of `total` places at random in a shuffled order, or all of them in their own if `count` is None."""
    if count is None or count >= total:
        return np.arange(total)
    return np.array(random.Random(seed).sample(range(total), count), dtype=np.int64)


def split(clusters: Sequence[int], eval_fraction: float, seed: int) -> tuple[Places, Places]:
    """Places of the training and of the held-out conversations.

    Whole clusters go to one side, in random order, until the held-out side has its share; both sides keep the order of the
    input.

    Args:
        clusters: The cluster of each conversation.
        eval_fraction: Share to hold out, in [0, 1).
        seed: Of the order of the clusters.
    """
    wanted = round(eval_fraction * len(clusters))
    members: dict[int, list[int]] = defaultdict(list)
    for place, cluster in enumerate(clusters):
        members[cluster].append(place)
    order = list(members.values())
    random.Random(seed).shuffle(order)
    held_out = np.zeros(len(clusters), dtype=bool)
    room = wanted
    for group in order:
        if len(group) <= room:
            held_out[group] = True
            room -= len(group)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
