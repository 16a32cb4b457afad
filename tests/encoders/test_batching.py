"""Batches: nothing lost, budgets kept, neighbours alike, the poisonous alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.batching import Batch, InFlight, Tokenised, Vectors, Window, cut, isolate, runs
from encoders.errors import TextError

LENGTHS = st.lists(st.integers(1, 60), max_size=80)


def items(lengths: list[int]) -> Batch:
    return [Tokenised([1] * length, tag) for tag, length in enumerate(lengths)]


def cost(batch: Batch, *, padded: bool) -> int:
    return max(one.tokens for one in batch) * len(batch) if padded else sum(one.tokens for one in batch)


@given(LENGTHS, st.integers(1, 100), st.booleans())
def test_cut_keeps_everybody_and_the_budget(lengths: list[int], budget: int, padded: bool) -> None:
    """Every text is in one batch, and a batch of several texts is within the budget."""
    batches = cut(items(lengths), budget_tokens=budget, padded=padded)
    assert sorted(one.tag for batch in batches for one in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or cost(batch, padded=padded) <= budget for batch in batches)


@given(LENGTHS, st.integers(1, 100), st.booleans())
def test_cut_leaves_no_room_unused(lengths: list[int], budget: int, padded: bool) -> None:
    """The first text of a batch would not have fitted into the one before."""
    batches = cut(items(lengths), budget_tokens=budget, padded=padded)
    for before, after in itertools.pairwise(batches):
        assert cost([*before, after[0]], padded=padded) > budget


@given(LENGTHS)
def test_runs_are_the_batch(lengths: list[int]) -> None:
    """Runs, written out, are the lengths; two neighbours differ."""
    found = runs(items(lengths))
    assert [tokens for texts, tokens in found for _ in range(texts)] == lengths
    assert all(a[1] != b[1] for a, b in itertools.pairwise(found))


@given(st.lists(st.one_of(st.none(), st.integers(1, 60)), max_size=120), st.integers(1, 100), st.integers(1, 400))
def test_window_gives_everybody_once(steps: list[int | None], budget: int, window_tokens: int) -> None:
    """Whatever the order of adding (a length) and taking (none), every text comes once, and the counts are right."""
    window = Window(budget_tokens=budget, window_tokens=max(budget, window_tokens))
    taken: list[int] = []
    lengths: list[int] = []
    for step in [*steps, *([None] * len(steps))]:
        if step is None:
            taken += [one.tag for one in window.take()]
        else:
            window.add([Tokenised([1] * step, len(lengths))])
            lengths.append(step)
        assert len(window) == len(lengths) - len(taken)
        assert window.tokens == sum(lengths) - sum(lengths[tag] for tag in taken)
    assert sorted(taken) == list(range(len(lengths)))


def test_a_window_starves_nobody() -> None:
    """A short text, at the end of its cohort, comes before any text of the next one, however long those are."""
    window = Window(budget_tokens=10, window_tokens=20)
    window.add(items([1, 10, 10]))
    seen: list[int] = []
    for number in range(4):
        window.add([Tokenised([1] * 10, 100 + number)])
        seen += [one.tag for one in window.take()]
    assert seen[:3] == [1, 2, 0]


def test_a_lower_budget_holds_at_once() -> None:
    """What is cut already is cut again; the budget never rises."""
    window = Window(budget_tokens=40, window_tokens=100)
    window.add(items([10] * 10))
    assert len(window.take()) == 4
    window.lower(20)
    window.lower(30)
    assert [len(window.take()) for _ in range(4)] == [2, 2, 2, 0]
    assert (len(window), window.tokens, window.budget_tokens) == (0, 0, 20)


def test_sorted_neighbours_are_alike() -> None:
    """With a window of many batches little padding is left; in the order of arrival it is more than a third."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(3, 0.6, 2_000)).astype(int).clip(3, 128).tolist()

    def waste(batches: list[Batch]) -> float:
        whole = sum(cost(batch, padded=True) for batch in batches)
        return float(1 - sum(lengths) / whole)

    as_they_come = [items(lengths)[i : i + 32] for i in range(0, 2_000, 32)]
    assert waste(as_they_come) > 1 / 3
    assert waste(cut(items(lengths), budget_tokens=2_048, padded=True)) < 0.1


def test_equal_requests_are_encoded_once() -> None:
    """The first to ask is told to encode, the rest wait; all are answered together, and the next one is a first again."""
    waiting: InFlight[str, int] = InFlight()
    assert [waiting.ask("k", i) for i in range(3)] == [True, False, False]
    assert waiting.ask("other", 9)
    assert waiting.answer("k") == [0, 1, 2]
    assert waiting.answer("k") == []
    assert waiting.ask("k", 3)


class Device:
    """Sums the ids of a text; refuses a batch with a poisonous id; counts the calls."""

    def __init__(self, poison: set[int]) -> None:
        self.poison = poison
        self.calls = 0

    def __call__(self, batch: Batch) -> Vectors:
        self.calls += 1
        if any(set(one.ids) & self.poison for one in batch):
            raise RuntimeError("poison")
        return np.array([[sum(one.ids)] for one in batch], np.float32)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=40, unique=True), st.sets(st.integers(0, 200), max_size=5))
def test_poison_fails_alone(ids: list[int], poison: set[int]) -> None:
    """Every text that is not poisonous gets its own vector, in order; every poisonous one its error."""
    answers = isolate([Tokenised([number], number) for number in ids], Device(poison))
    assert [item.tag for item, _ in answers] == ids
    for item, outcome in answers:
        if item.tag in poison:
            assert isinstance(outcome, RuntimeError)
        else:
            assert not isinstance(outcome, Exception)
            assert outcome.tolist() == [item.tag]


@pytest.mark.parametrize("n", [2, 16, 64])
def test_one_poison_costs_two_calls_a_halving(n: int) -> None:
    """One poisonous text of n takes 1 + 2 log2(n) calls, not n."""
    device = Device({1})
    isolate([Tokenised([int(number == n // 3)], number) for number in range(n)], device)
    assert device.calls == 1 + 2 * np.log2(n)


def test_a_vector_that_is_not_finite_is_its_text_s_error() -> None:
    """NaN in one row fails that row, without another call."""
    calls = []

    def forward(batch: Batch) -> Vectors:
        calls.append(len(batch))
        return np.array([[1.0], [np.nan], [np.inf]], np.float32)

    outcomes = [outcome for _, outcome in isolate(items([1, 1, 1]), forward)]
    assert calls == [3]
    assert [isinstance(outcome, TextError) for outcome in outcomes] == [False, True, True]
