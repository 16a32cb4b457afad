"""The same answer to the same idempotency key: answers are kept for a time, within a bound, and duplicates wait for one.

The memory is a process's own. Another process that gets the same key decides with the same decision id and the same
random numbers (`drawn`): from the same snapshot the same arms, and in any case an impression that the learner counts once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from streams.serve_messages import BadRequest


@dataclass(slots=True)
class _Kept:
    asked: bytes
    until: float
    answer: asyncio.Future[bytes]


class Once:
    """Answers by key.

    Args:
        kept_s: how long an answer is given again.
        most: answers kept at most; the oldest leave first.
        clock: seconds that only grow.
    """

    def __init__(self, *, kept_s: float, most: int, clock: Callable[[], float]) -> None:
        self._kept_s = kept_s
        self._most = most
        self._clock = clock
        self._answers: OrderedDict[str, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    async def answer(self, key: str, body: bytes, make: Callable[[], Awaitable[bytes]]) -> tuple[bytes, bool]:
        """What `make` returned for this key, and whether it was there already; an error is raised and not kept.

        Raises:
            BadRequest: the key came with another body before (422).
        """
        self._forget()
        asked = blake2b(body, digest_size=16).digest()
        kept = self._answers.get(key)
        if kept is not None:
            if kept.asked != asked:
                raise BadRequest(
                    f"idempotency key {key!r} came with another body before; use a key for one request only"
                )
            return await asyncio.shield(kept.answer), True
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[key] = _Kept(asked, self._clock() + self._kept_s, future)
        try:
            made = await make()
        except BaseException as error:
            self._answers.pop(key, None)
            _fail(future, error)
            raise
        future.set_result(made)
        return made, False

    def _forget(self) -> None:
        now = self._clock()
        while self._answers:
            oldest = next(iter(self._answers.values()))
            if oldest.until > now and len(self._answers) < self._most:
                return
            self._answers.popitem(last=False)


def _fail(future: asyncio.Future[bytes], error: BaseException) -> None:
    if isinstance(error, Exception):
        future.set_exception(error)
        future.exception()  # looked at, so that nobody warns when no duplicate waits
    else:
        future.cancel()


def drawn(key: str) -> tuple[str, np.random.Generator]:
    """A decision id, and a generator, that follow from the key.

    >>> first, rng = drawn("order-1")
    >>> again, other = drawn("order-1")
    >>> first == again, rng.random() == other.random(), len(first)
    (True, True, 32)
    """
    seed = blake2b(key.encode(), digest_size=32).digest()
    return seed[:16].hex(), np.random.default_rng(int.from_bytes(seed[16:], "little"))
