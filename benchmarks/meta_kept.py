"""Regrets that were measured, in memory and in a JSON file, so that a long measurement can be done in parts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from benchmarks.meta_bars import Regrets
    from policies.batch import FloatArray

POINTS = 200
"""Points of a curve that are kept."""

Curves = dict[str, dict[str, list[list[float]]]]
"""By environment and system, for each seed: cumulative regret at POINTS equally spaced rounds."""


class Kept:
    """Regrets by environment, system and seed.

    Args:
        path: file to begin with and to write, None for memory only.
        rounds: of all of them.
        several: systems that stand for others, and for which.

    Raises:
        SystemExit: the file holds regrets of another number of rounds.
    """

    def __init__(self, path: Path | None, rounds: int, *, several: Mapping[str, Sequence[str]]) -> None:
        self._path, self._rounds, self._several = path, rounds, several
        self._curves: dict[str, dict[str, dict[str, list[float]]]] = {}
        if path is not None and path.exists():
            read = json.loads(path.read_text())
            if read["rounds"] != rounds:
                raise SystemExit(
                    f"{path} holds regrets of {read['rounds']} rounds, asked for are {rounds}; use another file"
                )
            self._curves = read["curves"]

    def has(self, environment: str, system: str, seed: int) -> bool:
        """Whether it was measured, with all that it stands for."""
        known = self._curves.get(environment, {})
        return all(str(seed) in known.get(name, {}) for name in self._several.get(system, (system,)))

    def put(self, environment: str, system: str, seed: int, curve: FloatArray) -> None:
        """Keep a cumulative regret (rounds,)."""
        at = np.linspace(0, len(curve) - 1, POINTS).round().astype(np.intp)
        self._of(environment, system)[str(seed)] = curve[at].round(2).tolist()

    def copy(self, environment: str, system: str, name: str, seed: int) -> None:
        """The same under another name."""
        self._of(environment, name)[str(seed)] = self._of(environment, system)[str(seed)]

    def write(self) -> None:
        """Write the file."""
        if self._path is not None:
            self._path.write_text(json.dumps({"rounds": self._rounds, "curves": self._curves}))

    def of(self, environments: Sequence[str], systems: Collection[str], seeds: Collection[int]) -> Regrets:
        """Regrets at the end."""
        return {
            environment: {
                name: {int(seed): curve[-1] for seed, curve in each.items() if int(seed) in seeds}
                for name, each in self._curves.get(environment, {}).items()
                if name in systems
            }
            for environment in environments
        }

    def curves_of(self, environments: Sequence[str], systems: Collection[str], seeds: Collection[int]) -> Curves:
        """For the picture; without curves that were kept by their ends alone."""
        return {
            environment: {
                name: found
                for name, each in self._curves.get(environment, {}).items()
                if name in systems
                and (found := [one for seed, one in each.items() if int(seed) in seeds and len(one) == POINTS])
            }
            for environment in environments
        }

    def _of(self, environment: str, system: str) -> dict[str, list[float]]:
        return self._curves.setdefault(environment, {}).setdefault(system, {})
