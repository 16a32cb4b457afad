"""`vowpalwabbit --cbify`: it makes a bandit of labels itself, and learns from the reward of the class that it chose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from benchmarks.labelled import Labelled
    from policies.batch import FloatArray

EXPLORERS = {
    "vw-squarecb": "--squarecb",
    "vw-regcb": "--regcb",
    "vw-regcbopt": "--regcbopt",
    "vw-cover": "--cover 16 --psi 0.1 --nounif",
    "vw-epsilon": "--epsilon 0.05",
    "vw-squarecb-tuned": "--squarecb --gamma_scale 10000",
    "vw-regcb-tuned": "--regcb --mellowness 0.0001 -l 5",
    "vw-regcbopt-tuned": "--regcbopt --mellowness 0.001",
    "vw-cover-tuned": "--cover 2 --psi 0.01 --nounif -l 5",
    "vw-epsilon-tuned": "--epsilon 0.005 -l 2",
}
"""Options by name. All learn by `--cb_explore_adf`, whose default is importance-weighted regression, the bake-off's best.

The tuned ones had the least mean loss on the order of seed 0 of iris, digits and segments, among learning rates 0.1, 0.5
(the default), 2 and 5, rewards coded as costs 0/1 and -1/0, and a few values of the explorer's own rate each: they have
seen a part of what they are measured on.
"""


def wrong(world: Labelled, *, classes: int, options: str, seed: int) -> FloatArray:
    """(n,) 1 where the class that it chose was wrong, in the world's order; it has an intercept of its own.

    Args:
        world: rows in an order.
        classes: K.
        options: of the explorer.
        seed: of its draws.
    """
    from vowpalwabbit import Workspace

    workspace: Any = Workspace(f"--cbify {classes} --cb_explore_adf {options} --random_seed {seed + 1} --quiet")
    missed = np.zeros(len(world.y))
    for row, (x, y) in enumerate(zip(world.contexts[:, 1:].tolist(), (world.y + 1).tolist(), strict=True)):
        example = workspace.example(f"{y} | " + " ".join(f"f{i}:{value:.6g}" for i, value in enumerate(x)))
        workspace.learn(example)
        missed[row] = example.get_multiclass_prediction() != y
        workspace.finish_example(example)
    workspace.finish()
    return missed
