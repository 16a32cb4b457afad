"""Eligibility: plain predicates on arms' metadata, compiled to masks over slots and arms.

A rule names a field of the arms, an operator and what it is compared with: a field of the slot (`slot.size`), of the request
(`request.country`), or a constant::

    {"arm": "sizes",      "has":     "slot.size"}        the arm's list holds the slot's size
    {"arm": "countries",  "has":     "request.country"}
    {"arm": "categories", "none_of": "slot.blocked"}     no category of the arm is blocked in the slot
    {"arm": "age",        "at_most": "request.age"}      a number of the arm is at most the request's

A constant is a string or a number, or for `any_of` and `none_of` a list of them; one string or number stands for a list of it.
A constant with a dot can only be told from a slip in a list: `{"arm": "sites", "any_of": ["example.com"]}`.

An arm may be shown in a slot if all rules hold. An arm without a rule's field is not limited by it, and so it is if the
field is an empty list; nor does a rule say anything where slot or request lack what it compares with. Names that were not declared are refused
when the rules are compiled, so that a slip of the pen limits nobody silently.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Operator = Literal["has", "lacks", "any_of", "none_of", "at_least", "at_most"]
OPERATORS: tuple[Operator, ...] = ("has", "lacks", "any_of", "none_of", "at_least", "at_most")
"""has, lacks: one value and the arm's list. any_of, none_of: a list and the arm's list. at_least, at_most: the arm's number."""

LARGEST = sys.float_info.max
"""The largest number that is compared."""

_SOURCES = ("slot", "request")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One predicate: the arm's `field`, compared by `operator` with `source`.`key`, or with `constant` if source is ""."""

    field: str
    operator: Operator
    source: str
    key: str
    constant: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Names that rules may use: of arms, slots and requests."""

    arm: frozenset[str]
    slot: frozenset[str] = frozenset()
    request: frozenset[str] = frozenset()


def rules_from(settings: Sequence[Mapping[str, Any]], fields: Fields) -> tuple[Rule, ...]:
    """The rules that settings describe.

    Raises:
        ValueError: an unknown field or operator, a rule that is not one field and one operator, or a constant that does not suit it.

    >>> known = Fields(arm=frozenset({"sizes"}), slot=frozenset({"size"}))
    >>> rules_from([{"arm": "sizes", "has": "slot.size"}], known)[0].key
    'size'
    >>> rules_from([{"arm": "size", "has": "slot.size"}], known)
    Traceback (most recent call last):
    ValueError: rule 0 names the field 'size' of an arm; there are: sizes
    """
    return tuple(_rule(i, one, fields) for i, one in enumerate(settings))


def _rule(i: int, one: Mapping[str, Any], fields: Fields) -> Rule:
    unknown = [key for key in one if key != "arm" and key not in OPERATORS]
    if unknown:
        raise ValueError(f"rule {i} has {unknown[0]!r}; a rule has 'arm' and one of {', '.join(OPERATORS)}")
    found = [key for key in one if key != "arm"]
    if "arm" not in one or len(found) != 1:
        raise ValueError(f"rule {i} = {dict(one)}: must have 'arm' and exactly one of {', '.join(OPERATORS)}")
    _known(i, "an arm", one["arm"], fields.arm)
    operator, value = cast("Operator", found[0]), one[found[0]]
    source, dot, key = value.partition(".") if isinstance(value, str) else ("", "", "")
    if dot and source in _SOURCES:
        _known(i, f"a {source}", key, fields.slot if source == "slot" else fields.request)
        return Rule(field=one["arm"], operator=operator, source=source, key=key)
    if dot:
        raise ValueError(
            f"rule {i} compares with {value!r}; there is slot.FIELD and request.FIELD; a constant with a dot goes into a list of "
            "any_of or none_of"
        )
    return Rule(field=one["arm"], operator=operator, source="", key="", constant=_constant(i, operator, value))


def _constant(i: int, operator: Operator, value: Any) -> Any:
    """A constant as its operator takes it."""
    if operator in ("at_least", "at_most"):
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
            raise ValueError(f"rule {i}: {operator} is {value!r}; allowed: a finite number, slot.FIELD, request.FIELD")
        return value
    many = operator in ("any_of", "none_of")
    whole = list(value) if many and isinstance(value, list | tuple) else [value]
    if not all(isinstance(one, str | int | float) for one in whole):
        also = " or a list of these" if many else ""
        raise ValueError(
            f"rule {i}: {operator} is {value!r}; allowed: a string or a number{also}, slot.FIELD, request.FIELD"
        )
    return whole if many else value


def _known(i: int, whose: str, name: str, known: frozenset[str]) -> None:
    if name not in known:
        raise ValueError(
            f"rule {i} names the field {name!r} of {whose}; there are: {', '.join(sorted(known)) or 'none'}"
        )


class Eligibility:
    """Rules over A arms, compiled once; `mask` then is a few look-ups for each slot."""

    def __init__(
        self, rules: Sequence[Rule], *, arms: Sequence[Mapping[str, Any]], fields: Fields | None = None
    ) -> None:
        """Compile.

        Args:
            rules: from `rules_from`.
            arms: metadata of the A arms, in the order of the masks' columns.
            fields: if given, metadata may only hold these names.

        Raises:
            ValueError: metadata hold a field that was not declared, or that does not suit a rule.
        """
        self.arms = len(arms)
        for i, arm in enumerate(arms):
            unknown = [] if fields is None else sorted(set(arm) - fields.arm)
            if unknown:
                raise ValueError(f"arm {i} has the field {unknown[0]!r}; there are: {', '.join(sorted(fields.arm))}")  # type: ignore[union-attr]
        self._checks = [(rule, _compiled(rule, [arm.get(rule.field) for arm in arms])) for rule in rules]

    def mask(self, slots: Sequence[Mapping[str, Any]], request: Mapping[str, Any]) -> Mask:
        """(K, A) which arms may be shown in which slot.

        >>> known = Fields(arm=frozenset({"sizes", "tags"}), slot=frozenset({"size", "blocked"}))
        >>> rules = rules_from(
        ...     [{"arm": "sizes", "has": "slot.size"}, {"arm": "tags", "none_of": "slot.blocked"}], known)
        >>> ads = [{"sizes": ["300x250"]}, {"sizes": ["728x90"], "tags": ["games"]}, {}]
        >>> top, side = {"size": "728x90", "blocked": ["games"]}, {"size": "728x90"}
        >>> Eligibility(rules, arms=ads).mask([top, side], {}).tolist()
        [[False, False, True], [False, True, True]]
        """
        out = np.ones((len(slots), self.arms), bool)
        for rule, check in self._checks:
            if rule.source == "slot":
                for place, slot in enumerate(slots):
                    if slot.get(rule.key) is not None:
                        out[place] &= check(slot[rule.key])
                continue
            value = request.get(rule.key) if rule.source else rule.constant
            if value is not None:
                out &= check(value)
        return out


def _compiled(rule: Rule, column: list[Any]) -> Callable[[Any], Mask]:
    """From the value compared with to (A,)."""
    if rule.operator in ("at_least", "at_most"):
        return _number(rule, column)
    lists = [_listed(rule, value) for value in column]
    free = np.array([not one for one in lists], bool)
    holds: dict[Any, Mask] = {}
    for i, one in enumerate(lists):
        for value in one:
            holds.setdefault(value, np.zeros(len(column), bool))[i] = True
    none = np.zeros(len(column), bool)

    def some(values: Iterable[Any]) -> Mask:
        out = none.copy()
        for value in values:
            out |= holds.get(value, none)
        return out

    if rule.operator in ("has", "any_of"):
        return (lambda v: free | holds.get(v, none)) if rule.operator == "has" else (lambda vs: free | some(vs))
    return (lambda v: ~holds.get(v, none)) if rule.operator == "lacks" else (lambda vs: ~some(vs))


def _listed(rule: Rule, value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(value)
    if isinstance(value, str | int | float):
        return (value,)
    raise ValueError(f"an arm's {rule.field!r} is {value!r}; {rule.operator!r} needs a list, a string or a number")


def _number(rule: Rule, column: list[Any]) -> Callable[[Any], Mask]:
    wrong = [value for value in column if value is not None and not isinstance(value, int | float)]
    if wrong:
        raise ValueError(f"an arm's {rule.field!r} is {wrong[0]!r}; {rule.operator!r} needs a number")
    numbers = np.array([np.nan if value is None else float(value) for value in column])
    free = np.isnan(numbers)
    if rule.operator == "at_least":
        return lambda v: free | (numbers >= v)
    return lambda v: free | (numbers <= v)
