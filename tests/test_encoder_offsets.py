"""What may be committed is exactly what precedes the first request without a safe answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.encoder_offsets import Offsets, Place


@given(st.lists(st.booleans(), max_size=60), st.randoms(use_true_random=False))
def test_nothing_unsettled_is_ever_committed(gaps: list[bool], order: object) -> None:
    """In whatever order answers come: commits only rise, cover no open offset, and in the end cover all."""
    offsets, taken = Offsets(), []
    offset = 100
    for gap in gaps:  # a log has gaps where transactions ended
        offset += 1 + gap
        taken.append(offset)
        offsets.take(Place(0, offset))
    open_, committed = set(taken), 0
    shuffled = list(taken)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    for place in shuffled:
        offsets.settle(Place(0, place))
        open_.discard(place)
        found = offsets.committable()
        if found:
            assert found[0] > committed
            committed = found[0]
        assert all(one >= committed for one in open_)
    assert committed == (taken[-1] + 1 if taken else 0)
    assert len(offsets) == 0


def test_partitions_are_apart() -> None:
    """One partition's open request holds no other back."""
    offsets = Offsets()
    offsets.take(Place(0, 5))
    offsets.take(Place(1, 5))
    offsets.settle(Place(1, 5))
    assert offsets.committable() == {1: 6}


def test_what_is_somebody_else_s_is_not_committed() -> None:
    """After a partition has gone, late answers say nothing; when it comes back it begins where it is read."""
    offsets = Offsets()
    for offset in (5, 6):
        offsets.take(Place(0, offset))
    offsets.forget([0])
    offsets.settle(Place(0, 5))
    assert offsets.committable() == {}
    offsets.take(Place(0, 5))
    assert offsets.committable() == {}
    offsets.settle(Place(0, 5))
    assert offsets.committable() == {0: 6}


def test_reading_again_from_before_begins_anew() -> None:
    """A consumer that was set back reads old offsets again; they are open again."""
    offsets = Offsets()
    for offset in (5, 6, 7):
        offsets.take(Place(0, offset))
        offsets.settle(Place(0, offset))
    assert offsets.committable() == {0: 8}
    offsets.take(Place(0, 6))
    assert offsets.committable() == {}
    offsets.settle(Place(0, 6))
    assert offsets.committable() == {0: 7}
