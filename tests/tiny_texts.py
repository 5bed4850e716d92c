"""Tiny texts whose words tell their labels, for tests that train."""

import numpy as np

KINDS = {"animal": "fox bird cat", "plant": "tree rose moss", "stone": "flint slate chalk", "rare": "comet nova"}


def texts_and_sets(rows, seed=0):
    rng = np.random.default_rng(seed)
    sets = []
    for _ in range(rows):
        sets.append(
            [str(x) for x in rng.choice(list(KINDS), rng.integers(1, 4), replace=False, p=[0.4, 0.3, 0.2, 0.1])]
        )
    return [" and ".join(rng.choice(KINDS[name].split()) for name in labels) for labels in sets], sets
