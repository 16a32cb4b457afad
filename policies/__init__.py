"""Contextual bandit policies as plain functions on arrays: sums, posteriors, explorers, snapshots. No Kafka.

From rows to a decision: `Batch` -> `Model.update` -> sums -> `Model.at` -> `empirical_bayes.fit`, `snapshot.build` ->
`decide.decide`.
"""

from __future__ import annotations

from policies.batch import Batch
from policies.model import Effective, Model, RecordError, Sums, make_model, retract
from policies.prior import BetaPrior, Prior

__all__ = ["Batch", "BetaPrior", "Effective", "Model", "Prior", "RecordError", "Sums", "make_model", "retract"]
