"""Outcomes that bring their impression along in a token: which of them count. Part of the join (streams/join.py).

Such an outcome is counted from its token, whether or not its impression is known, if ``-early <= outcome.ts - token.ts < token window``.
What else can become of it: ``late`` (outside; again is late again), ``duplicate`` (the same decision, slot and outcome id counted, by a
token or by the join), ``dead`` (forged and the like by the decoder; here: its life was over at the watermark when it arrived, so that
whether it is a duplicate is not known any more).

Of a policy with tokens on, every outcome that counts is remembered for the token's life (streams/token_store.py). So of two reports of
one outcome, one with the token and one without, the one that could count first counts: the first in the log, unless that one has no token and
waits for its impression.

An outcome by token whose impression is pending, or comes while it still could, is noted there: the matured row holds its reward if
it lies within the join's window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streams.outcomes import Seen
from streams.partition import partitions_for
from streams.token_store import BY_TOKEN, HOUR_MS, TokenStore, hashes
from streams.waiting import Waiting

if TYPE_CHECKING:
    from streams.decoded import Brought, Click
    from streams.join import Window

TOKEN_COUNTS = ("joined", "duplicate", "late", "expired", "forged", "unknown_key", "unusable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of an outcome: ``what`` of `TOKEN_COUNTS`; for the dead, why; for those that count, rewards of their impression."""

    what: str
    reason: str | None = None
    reward: float = 0.0
    before: float = 0.0
    after: float = 0.0


class TokenOutcomes:
    """Of one partition. ``windows`` by policy; ``number`` of ``partitions``, None where a token's partition is not checked."""

    def __init__(self, windows: Mapping[str, Window], *, number: int = 0, partitions: int | None = None) -> None:
        self.windows = windows
        self.counts = dict.fromkeys(TOKEN_COUNTS, 0)
        self.store = TokenStore(life_ms=max((window.token_life_ms for window in windows.values()), default=0))
        self.unmet = Waiting()
        """Outcomes by token that counted and whose impression may still come."""
        self._number = number
        self._partitions = partitions
        self._noted: set[int] = set()  # in a rebuild: of several copies the first is noted

    def misplaced(self, clicks: Sequence[Click]) -> frozenset[int]:
        """Positions of those with a token that are on another partition than their key names: a copy of them may lie on that."""
        if self._partitions is None:
            return frozenset()
        at = [i for i, click in enumerate(clicks) if click.brought is not None]
        named = partitions_for([clicks[i].decision_id.encode() for i in at], self._partitions) if at else ()
        return frozenset(i for i, partition in zip(at, named, strict=True) if partition != self._number)

    def judge(
        self,
        click: Click,
        brought: Brought,
        *,
        watermark: int | None,
        misplaced: bool,
        noted: Sequence[Seen],
        counted: bool,
    ) -> Verdict:
        """What becomes of an outcome by token, which is remembered if it counts.

        Args:
            click: the outcome.
            brought: what its token says.
            watermark: ms of event time.
            misplaced: whether it lies on the wrong partition.
            noted: outcomes that are known of its impression.
            counted: False in a rebuild: "joined" then is what counted before and has not been noted yet, all else "duplicate".
        """
        refused = self._refused(click, brought, watermark, misplaced=misplaced)
        if refused is not None:
            return refused
        window = self.windows[brought.policy]
        decision, outcome = hashes(click.decision_id, click.slot, click.outcome_id)
        known = self.store.of(brought.ts, decision)
        mine = outcome | BY_TOKEN
        reward = window.outcomes[click.kind] * click.value
        if not counted:
            first = mine not in self._noted and any(other == mine for other, _ in known)
            self._noted.add(mine)
            return Verdict(what="joined" if first else "duplicate", reward=reward)
        if (
            any(other | BY_TOKEN == mine for other, _ in known)
            or self.store.comes(outcome)
            or any(other.outcome_id == click.outcome_id and other.reward is not None for other in noted)
        ):
            return Verdict(what="duplicate")
        before, after = rewards(window, [value for _, value in known], reward)
        self.store.add(brought.ts, decision, mine, reward)
        return Verdict(what="joined", reward=reward, before=before, after=after)

    def _refused(self, click: Click, brought: Brought, watermark: int | None, *, misplaced: bool) -> Verdict | None:
        window = self.windows[brought.policy]
        if misplaced:
            return Verdict(
                what="unusable",
                reason=f"token: decision {click.decision_id!r} belongs to another partition than {self._number}, where a copy of the outcome "
                "would count again; set partitioner=murmur2_random in the producer",
            )
        if click.kind not in window.outcomes:
            listed = ", ".join(sorted(window.outcomes))
            return Verdict(what="unusable", reason=f"kind is {click.kind!r}; policy {brought.policy!r} lists {listed}")
        over = watermark is not None and brought.ts + window.token_life_ms <= watermark
        if over or brought.ts // HOUR_MS < self.store.floor:
            return Verdict(
                what="expired",
                reason=f"token: it is of ts {brought.ts} and its life of {window.token_life_ms} ms was over at watermark {watermark} of its "
                "partition; send outcomes sooner, or make token_window_s longer",
            )
        if not -window.early_ms <= click.ts - brought.ts < window.token_ms:
            return Verdict(what="late")
        return None

    def first(
        self, click: Click, ts: int, window: Window, reward: float, *, counted: bool
    ) -> tuple[float, float] | None:
        """Reward of the impression (of time ``ts``, ms) before and after an outcome that was joined; None if the outcome counted before.

        It is remembered. In a rebuild (``counted`` False) None means that a token brought it: its copy with the token is noted.
        """
        decision, outcome = hashes(click.decision_id, click.slot, click.outcome_id)
        known = self.store.of(ts, decision)
        if any(other | BY_TOKEN == outcome | BY_TOKEN and (counted or other & BY_TOKEN) for other, _ in known):
            return None
        if counted:
            if self.store.comes(outcome | BY_TOKEN):
                return None
            self.store.add(ts, decision, outcome, reward)
        return rewards(window, [value for _, value in known], reward)

    def leave(self, watermark: int, *, wait_ms: int) -> None:
        """Let go of what nothing to come needs at this watermark."""
        self._noted.clear()
        self.unmet.leave(watermark, wait_ms=wait_ms)
        self.store.leave(watermark)


def rewards(window: Window, known: Sequence[float], reward: float) -> tuple[float, float]:
    """The reward of an impression from the outcomes that are known, and with one more."""
    seen = [Seen("", 0, value, 0) for value in known]
    return window.reward(seen), window.reward([*seen, Seen("", 0, reward, 0)])
