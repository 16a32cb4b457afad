"""Frequency caps hold in every window, whatever order impressions come in, and memory is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.caps import Cap, Caps, hashed

WINDOW_MS = 60_000
U1, U2 = hashed("u1"), hashed("u2")
ROWS = st.lists(
    st.tuples(st.integers(0, 200_000), st.sampled_from([U1, U2]), st.sampled_from("ab")), min_size=1, max_size=60
)


def most_in_a_window(times: list[int]) -> int:
    """Largest number of times in any window [t, t + WINDOW_MS)."""
    return max((sum(t <= other < t + WINDOW_MS for other in times) for t in times), default=0)


@settings(max_examples=150)
@given(ROWS, st.integers(0, 4), st.integers(1, 7), st.sampled_from([1, 3, 1000]))
def test_no_window_holds_more_than_the_cap(
    rows: list[tuple[int, int, str]], limit: int, buckets: int, most: int
) -> None:
    """If impressions are shown only where allowed; also where buckets overflow into the sketch."""
    caps = Caps(Cap(limit=limit, window_s=WINDOW_MS / 1000), buckets=buckets, most=most)
    shown: dict[tuple[int, str], list[int]] = {}
    for ts, unit, key in sorted(rows):
        if caps.allowed(unit, (key,), now_ms=ts)[0]:
            caps.shown(unit, key, ts=ts)
            shown.setdefault((unit, key), []).append(ts)
    assert all(most_in_a_window(times) <= limit for times in shown.values())


@settings(max_examples=150)
@given(ROWS, st.integers(1, 7))
def test_counts_lie_between_the_window_and_one_bucket_more(rows: list[tuple[int, int, str]], buckets: int) -> None:
    """In any order of arrival: never below the true count, never above that of window + bucket."""
    caps = Caps(Cap(limit=1, window_s=WINDOW_MS / 1000), buckets=buckets)
    for ts, unit, key in rows:
        caps.shown(unit, key, ts=ts)
    now = max(ts for ts, _, _ in rows)
    for unit in (U1, U2):
        times = [ts for ts, who, key in rows if (who, key) == (unit, "a")]
        found = caps.counts(unit, ("a",), now_ms=now)[0]
        assert sum(now - WINDOW_MS < ts <= now for ts in times) <= found
        assert found <= sum(now - WINDOW_MS - caps.bucket_ms < ts for ts in times)


def test_the_window_check_would_notice_no_caps() -> None:
    """Three at once are more than two."""
    assert most_in_a_window([0, 0, 59_999]) == 3
    assert most_in_a_window([0, 0, 60_000]) == 2


def test_memory_is_bounded() -> None:
    """A million units in one window: exact pairs stop at `most` a bucket, what has expired leaves, and nobody is counted too low."""
    caps = Caps(Cap(limit=1, window_s=12.0), buckets=12, most=50)
    for i in range(20_000):
        caps.shown(hashed(str(i % 5_000)), "a", ts=i * 10)
    assert len(caps) <= 50 * 13
    assert caps.counts(hashed(str(19_999 % 5_000)), ("a",), now_ms=199_990)[0] >= 1
    caps.shown(U1, "a", ts=10**9)
    assert len(caps) == 1


def test_the_sketch_errs_by_little() -> None:
    """1,000 late pairs in 10,000 counters: few of 500 others seem to have been shown."""
    caps = Caps(Cap(limit=1, window_s=12.0), buckets=1, most=10_000)
    for i in range(11_000):
        caps.shown(hashed(str(i)), "a", ts=0)
    wrong = sum(int(caps.counts(hashed(f"other-{i}"), ("a",), now_ms=0)[0]) for i in range(500))
    assert wrong < 100


def test_limits_by_key_and_what_cannot_be() -> None:
    """A limit of 0 is a limit; one below is refused, and one that nothing counts to."""
    caps = Caps(Cap(limit=5, window_s=60.0), limits={"never": 0})
    assert caps.allowed(U1, ("never", "a"), now_ms=0).tolist() == [False, True]
    with pytest.raises(ValueError, match="limit is -1"):
        Caps(Cap(limit=-1, window_s=60.0))
    with pytest.raises(ValueError, match="limit is 1000"):
        Caps(Cap(limit=10**19, window_s=60.0))
    with pytest.raises(ValueError, match="window_s = 0"):
        Caps(Cap(limit=1, window_s=0.0))
