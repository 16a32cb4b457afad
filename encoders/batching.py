"""Which texts go through the device together: a budget of tokens, a window sorted by length, and what to do when one fails.

Pure: nothing here knows a device, a thread or a clock.

A *cohort* is what waits at one moment, up to a window of tokens. It is sorted by length and cut into batches of at most
`budget_tokens`; the next cohort begins when it is used up. So neighbours in a batch are of like length, and nobody waits
longer than one cohort, however the lengths of later texts are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from encoders.errors import TextError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tokenised:
    """A text as token ids (l,), and whose it is."""

    ids: Sequence[int]
    tag: Any = None

    @property
    def tokens(self) -> int:
        """How many there are, special ones included."""
        return len(self.ids)


Batch = list[Tokenised]


def cut(items: Sequence[Tokenised], *, budget_tokens: int, padded: bool = False) -> list[Batch]:
    """Batches of at most that many tokens, longest texts first; a text beyond the budget gets a batch of its own.

    With `padded` a text counts as many tokens as the longest of its batch.

    >>> texts = [Tokenised([1] * n) for n in (3, 9, 2, 4)]
    >>> [[text.tokens for text in batch] for batch in cut(texts, budget_tokens=7)]
    [[9], [4, 3], [2]]
    >>> [[text.tokens for text in batch] for batch in cut(texts, budget_tokens=7, padded=True)]
    [[9], [4], [3, 2]]
    """
    batches: list[Batch] = []
    left = counted = 0
    for item in sorted(items, key=lambda one: -one.tokens):
        if not batches or (counted if padded else item.tokens) > left:
            batches.append([])
            left, counted = budget_tokens, item.tokens
        batches[-1].append(item)
        left -= counted if padded else item.tokens
    return batches


def runs(batch: Sequence[Tokenised]) -> list[tuple[int, int]]:
    """Neighbours of the same length as (texts, tokens of each).

    >>> runs([Tokenised([1] * n) for n in (5, 3, 3, 2)])
    [(1, 5), (2, 3), (1, 2)]
    """
    found: list[tuple[int, int]] = []
    for item in batch:
        if found and found[-1][1] == item.tokens:
            found[-1] = (found[-1][0] + 1, item.tokens)
        else:
            found.append((1, item.tokens))
    return found


class Window:
    """Texts that wait, and the batches of the present cohort. Not safe from several threads.

    Args:
        budget_tokens: tokens of a batch at most; `lower` makes it less.
        window_tokens: tokens of a cohort at most, one text more than full.
        padded: whether a text counts as many tokens as the longest of its batch.

    >>> window = Window(budget_tokens=8, window_tokens=16)
    >>> window.add([Tokenised([1] * n) for n in (2, 5, 3)])
    >>> window.full, [text.tokens for text in window.take()], [text.tokens for text in window.take()]
    (True, [5, 3], [2])
    """

    def __init__(self, *, budget_tokens: int, window_tokens: int, padded: bool = False) -> None:
        self.budget_tokens = budget_tokens
        self.padded = padded
        self.window_tokens = window_tokens
        self.tokens = 0
        self.texts = 0
        self._waiting: deque[Tokenised] = deque()
        self._cohort: deque[Batch] = deque()

    def __len__(self) -> int:
        return self.texts

    @property
    def full(self) -> bool:
        """Whether there are enough tokens for a whole batch."""
        return self.tokens >= self.budget_tokens

    def add(self, items: Sequence[Tokenised]) -> None:
        """Texts wait from now on."""
        self._waiting.extend(items)
        self.texts += len(items)
        self.tokens += sum(item.tokens for item in items)

    def take(self) -> Batch:
        """The next batch, empty if nothing waits."""
        if not self._cohort:
            self._cohort.extend(cut(self._next_cohort(), budget_tokens=self.budget_tokens, padded=self.padded))
        batch = self._cohort.popleft() if self._cohort else []
        self.texts -= len(batch)
        self.tokens -= sum(item.tokens for item in batch)
        return batch

    def lower(self, budget_tokens: int) -> None:
        """Have batches of no more than that many tokens from now on."""
        self.budget_tokens = min(self.budget_tokens, budget_tokens)
        rest = [item for batch in self._cohort for item in batch]
        self._cohort = deque(cut(rest, budget_tokens=self.budget_tokens, padded=self.padded))

    def _next_cohort(self) -> Batch:
        cohort: Batch = []
        tokens = 0
        while self._waiting and tokens < self.window_tokens:
            cohort.append(self._waiting.popleft())
            tokens += cohort[-1].tokens
        return cohort


class InFlight(Generic[K, T]):
    """Who waits for a key: the first to ask has it encoded, the others wait along. Not safe from several threads.

    >>> waiting = InFlight()
    >>> waiting.ask("k", 1), waiting.ask("k", 2), waiting.answer("k")
    (True, False, [1, 2])
    """

    def __init__(self) -> None:
        self._waiting: dict[K, list[T]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, key: K, who: T) -> bool:
        """Wait for a key; whether it is to be encoded now, because nobody waited for it."""
        waiting = self._waiting.setdefault(key, [])
        waiting.append(who)
        return len(waiting) == 1

    def answer(self, key: K) -> list[T]:
        """Everybody who waited for the key, in the order of asking; nobody does from now on."""
        return self._waiting.pop(key, [])


Vectors = npt.NDArray[np.float32]
Outcome = Vectors | Exception


def isolate(
    batch: Batch,
    forward: Callable[[Batch], Vectors],
) -> list[tuple[Tokenised, Outcome]]:
    """Encode a batch so that a text that cannot be encoded fails alone: (text, vector or error) in the batch's order.

    Args:
        batch: texts.
        forward: their vectors (n, d); raises if one of them is poison, or memory runs out.

    The batch is cut in halves until the error is one text's. One poison text of n costs 2 log2(n) calls more. A vector that is
    not finite is an error of its text alone.

    >>> def forward(batch):
    ...     if any(13 in text.ids for text in batch):
    ...         raise RuntimeError("13")
    ...     return np.array([[sum(text.ids)] for text in batch], np.float32)
    >>> [str(outcome) for _, outcome in isolate([Tokenised([n]) for n in (1, 13, 2)], forward)]
    ['[1.]', '13', '[2.]']
    """
    try:
        vectors = forward(batch)
    except Exception as error:  # noqa: BLE001 - whatever it is belongs to one text or to all of them, and bisection tells
        if len(batch) == 1:
            return [(batch[0], error)]
        half = len(batch) // 2
        return [one for part in (batch[:half], batch[half:]) for one in isolate(part, forward)]
    finite = np.asarray(np.isfinite(vectors).all(axis=1))
    return [
        (item, vector if good else TextError("its vector is not finite"))
        for item, vector, good in zip(batch, vectors, finite, strict=True)
    ]
