"""Docstrings: everything public in `policies/` has one, and in the modules with formulas every function shows an example."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import pytest

from tests.policies.test_conformance import modules, own

FORMULAS = {
    "arm_laws",
    "baseline",
    "beta_thompson",
    "bilinear",
    "closed_forms",
    "decay",
    "drift",
    "empirical_bayes",
    "explain",
    "explorers",
    "exploring",
    "gaussian",
    "groups",
    "hybrid",
    "ladder",
    "linear_bayes",
    "logistic",
    "meta",
    "monte_carlo",
    "posterior",
    "robust",
    "rollouts",
    "scale",
    "student",
    "student_t",
    "thompson",
    "thompson_batch",
    "thompson_student",
    "top_layer",
    "triangle",
}
"""Modules whose public functions compute what a formula says."""
CHECKS = "check"
"""Functions whose names begin so only raise."""


def undocumented(module: ModuleType) -> list[str]:
    """Public functions, classes and methods without a docstring of their own."""
    missing = []
    for name, value in own(module).items():
        if not (inspect.isfunction(value) or inspect.isclass(value)):
            continue
        members: dict[str, Any] = dict(vars(value)) if inspect.isclass(value) else {}
        methods = [
            f"{name}.{key}" for key, one in members.items() if inspect.isfunction(one) and not key.startswith("_")
        ]
        missing += [one for one in methods if not getattr(members[one.split(".")[1]], "__doc__", None)]
        missing += [name] if not value.__doc__ else []
    return missing


def without_example(module: ModuleType) -> list[str]:
    """Public functions whose docstring shows no call."""
    return [
        name
        for name, value in own(module).items()
        if inspect.isfunction(value) and not name.startswith(CHECKS) and ">>>" not in (value.__doc__ or "")
    ]


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_public_names_are_documented(module: ModuleType) -> None:
    """The module too."""
    assert module.__doc__
    assert undocumented(module) == []


@pytest.mark.parametrize("module", [one for one in modules() if one.__name__.split(".")[1] in FORMULAS], ids=str)
def test_functions_with_formulas_show_an_example(module: ModuleType) -> None:
    """Which is run with the doctests."""
    assert without_example(module) == []


def test_the_list_has_no_module_that_is_gone() -> None:
    """Each name is a module."""
    assert {one.__name__.split(".")[1] for one in modules()} >= FORMULAS


def test_what_is_missing_is_noticed() -> None:
    """A function without docstring, one without example, a method without docstring."""
    new = ModuleType("policies.new")
    source = "def f(): pass\ndef g():\n    'Text.'\nclass C:\n    'Text.'\n    def m(self): pass\n"
    exec(source, new.__dict__)  # noqa: S102 - a module as somebody may write it
    assert undocumented(new) == ["f", "C.m"]
    assert without_example(new) == ["f", "g"]
