from __future__ import annotations

import pytest

from streams.pacing import LEAD_MS, PATIENCE_S, Standing, held


def standing(ts: int | None, *, unread: bool = True, idle_s: float = 0.0) -> Standing:
    """A topic that flows, unless told."""
    return Standing(ts, unread, idle_s)


@pytest.mark.parametrize(
    ("impressions", "clicks", "waits"),
    [
        (standing(0), standing(LEAD_MS), None),
        (standing(0), standing(LEAD_MS + 1), "clicks"),
        (standing(LEAD_MS + 1), standing(0), "impressions"),
        (standing(0, unread=False), standing(10**9), None),
        (standing(0, idle_s=PATIENCE_S + 0.1), standing(10**9), None),
        (standing(None), standing(10**9), None),
        (standing(10**9), standing(None), None),
        (standing(0), standing(10**9, unread=False), "clicks"),
        (standing(0), standing(10**9, idle_s=60.0), "clicks"),
    ],
)
def test_the_topic_that_is_ahead_waits_while_more_of_the_other_is_coming(
    impressions: Standing, clicks: Standing, waits: str | None
) -> None:
    """Nobody waits for a topic that is read to its end, silent, stuck or unknown; never both."""
    found = held({"impressions": impressions, "clicks": clicks})
    assert found == {"impressions": waits == "impressions", "clicks": waits == "clicks"}
