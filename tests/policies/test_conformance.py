"""The conformance table: every posterior, explorer and estimator once, through all laws of its kind.

Models' laws are in laws.py (subjects in model_subjects.py), explorers' in explorer_laws.py, estimators' in
estimator_laws.py. Each law has a broken subject that it rejects. What `policies/` has and the table does not fails: names in
MODELS and EXPLORERS, public classes with a model's methods, public functions named fit_... or estimate..., and modules that
nobody has said to hold none of these.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import policies
from policies.explorers import EXPLORERS
from policies.linear import LinearModel
from policies.model import MODELS
from policies.ope import OFF_POLICY
from tests.policies import estimator_laws, explorer_laws, laws, log_subjects, model_subjects
from tests.policies.laws import D

Judge = Callable[[Any], None]

ESTIMATORS = estimator_laws.SUBJECTS | log_subjects.SUBJECTS

PLAIN = {
    "allocation",
    "allotment",
    "arm_contexts",
    "arm_features",
    "arm_laws",
    "arms",
    "audit",
    "baseline",
    "batch",
    "beta_thompson",
    "bilinear",
    "budget_steps",
    "budgets",
    "canary",
    "caps",
    "charging",
    "choosing",
    "choosing_records",
    "closed_forms",
    "compiled",
    "contest",
    "decay",
    "decide",
    "decide_batch",
    "decide_slots",
    "decide_split",
    "draw",
    "drift",
    "eligibility",
    "evaluation",
    "expiry",
    "explain",
    "exploration",
    "exploration_records",
    "exploring",
    "exposure",
    "features",
    "gaussian",
    "guardrails",
    "kernels",
    "ladder",
    "ledger",
    "ledger_records",
    "linear_sums",
    "matching",
    "meta",
    "meta_cuts",
    "meta_means",
    "meta_records",
    "meta_rules",
    "meta_state",
    "model",
    "offers",
    "position_state",
    "posterior",
    "prior",
    "projection",
    "promotion",
    "queues",
    "records",
    "references",
    "retraction",
    "robust",
    "rollout_plan",
    "rollouts",
    "rollouts_torch",
    "rows",
    "scale",
    "scores",
    "sequences",
    "slot_gaps",
    "slot_laws",
    "slot_marginals",
    "slot_rules",
    "slot_weights",
    "slots_split",
    "slots_together",
    "snapshot",
    "snapshot_records",
    "stack",
    "starting",
    "sticky",
    "student_t",
    "succession",
    "sums",
    "terms",
    "terms_records",
    "thompson",
    "thompson_batch",
    "thompson_student",
    "top_layer",
    "trial_records",
    "trials",
    "triangle",
    "visits",
}
"""Modules that define no model, explorer or estimator of their own: a new module must be put here, or its names in the table."""


def table() -> dict[str, tuple[Judge, Any, Any]]:
    """Every law applied to every subject of its kind: the law, the subject, and a subject that breaks it."""
    rows: dict[str, tuple[Judge, Any, Any]] = {}
    for name, model in model_subjects.SUBJECTS.items():
        for law, (judge, wrong) in model_subjects.LAWS.items():
            broken = replace(model_subjects.SUBJECTS["linear"], make=partial(wrong, dimension=D))
            rows[f"model-{name}-{law}"] = (judge, model, broken)
    for name, explorer in explorer_laws.SUBJECTS.items():
        for rule in explorer_laws.LAWS:
            rows[f"explorer-{name}-{rule.__name__}"] = (
                partial(explorer_laws.obeys, rule),
                explorer,
                explorer_laws.BROKEN[rule],
            )
    for name, estimator in ESTIMATORS.items():
        for law, (test, failing) in estimator_laws.LAWS.items():
            rows[f"estimator-{name}-{law}"] = (test, estimator, failing)
    return rows


TABLE = table()


@pytest.mark.parametrize("row", TABLE)
def test_every_subject_obeys_every_law_of_its_kind(row: str) -> None:
    """The table."""
    judge, subject, _ = TABLE[row]
    judge(subject)


def one_of_each() -> list[str]:
    """One row for each law."""
    return list({(row.split("-")[0], row.rsplit("-", 1)[1]): row for row in TABLE}.values())


@pytest.mark.parametrize("row", one_of_each())
def test_every_law_rejects_a_subject_that_breaks_it(row: str) -> None:
    """A law that nothing fails says nothing."""
    judge, _, broken = TABLE[row]
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        judge(broken)


@pytest.mark.parametrize("name", model_subjects.SUBJECTS)
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_sums_are_a_function_of_the_set_of_rows(name: str, seed: int) -> None:
    """Whatever the rows, the split, the order and the tree."""
    laws.merging(model_subjects.SUBJECTS[name], seed)


def modules() -> list[ModuleType]:
    """All of `policies/`."""
    return [importlib.import_module(f"policies.{found.name}") for found in pkgutil.iter_modules(policies.__path__)]


def own(module: ModuleType) -> dict[str, Any]:
    """What is public and defined there."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }


def is_model(value: object) -> bool:
    """A class with a model's methods."""
    needed = {"zero", "update", "merge", "encode", "decode", "at"}
    return inspect.isclass(value) and needed <= set(dir(value)) and not getattr(value, "_is_protocol", False)


def subjects_in(module: ModuleType) -> set[Any]:
    """Models' classes, and names of functions that fit or estimate."""
    found = own(module)
    functions = {
        name
        for name, value in found.items()
        if inspect.isfunction(value) and re.match(r"fit_|estimate|mean_delay_s|mixture", name)
    }
    return functions | {value for value in found.values() if is_model(value)}


def unlisted(listed: set[Any], plain: set[str], among: list[ModuleType]) -> set[Any]:
    """What the modules have and the table does not; names of modules that are neither plain nor hold a listed subject."""
    found = {module.__name__.removeprefix("policies."): subjects_in(module) for module in among}
    missing = set().union(*found.values(), MODELS, EXPLORERS, OFF_POLICY) - listed
    known = {"explorers", "empirical_bayes", "ope"} | plain
    return missing | {name for name, subjects in found.items() if name not in known and not subjects & listed}


def listed_names() -> set[Any]:
    """Everything in the table."""
    models = [subject.make() for subject in model_subjects.SUBJECTS.values()]
    return {
        *map(type, models),
        *(model.name for model in models),
        *explorer_laws.SUBJECTS,
        *ESTIMATORS,
    }


def test_everything_in_the_package_is_listed() -> None:
    """One that is not in the table fails here."""
    assert unlisted(listed_names(), PLAIN, modules()) == set()


@pytest.mark.parametrize("missing", [LinearModel, "hybrid", "softmax", "fit_beta", "estimate", "dr-os", "mean_delay_s"])
def test_one_that_is_left_out_is_noticed(missing: Any) -> None:
    """Whatever its kind."""
    assert missing in unlisted(listed_names() - {missing}, PLAIN, modules())


def test_a_new_module_must_say_what_it_holds() -> None:
    """Also if its functions have other names: it is in the table, or plain."""
    new = ModuleType("policies.later")
    assert unlisted(listed_names(), PLAIN, [new]) == {"later"}
    assert unlisted(listed_names(), {*PLAIN, "later"}, [new]) == set()
    exec("def estimated_mean(): pass", new.__dict__)  # noqa: S102 - a module as another engineer may write it
    assert unlisted(listed_names(), {*PLAIN, "later"}, [new]) == {"estimated_mean"}
