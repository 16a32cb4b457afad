"""Terms of slots and budgets in a snapshot's head."""

from typing import Any

import msgspec
import numpy as np
import pytest

from policies.allotment import NO_ALLOTMENT, Allotment, allotment_of, fields_of
from policies.model import make_model
from policies.prior import Prior
from policies.snapshot import Snapshot, assemble, build, encode_head, republish
from policies.snapshot_records import decode_head
from policies.sums import RecordError

TERMS = Allotment(
    kappa={"top": 1.0, "side": 0.5}, price={"spring": 0.25}, closed=frozenset({"autumn"}), bonus={"a": -0.1}
)


def published(terms: Allotment) -> Snapshot:
    model = make_model("linear", dimension=1)
    prior = Prior(mean=np.zeros(1), tau2=np.ones(1), s2=1.0)
    return build(
        "p",
        model=model,
        sums={"a": model.zero()},
        prior=prior,
        version=1,
        previous=None,
        time_ms=0,
        now_ms=0,
        allotment=terms,
    )


def test_terms_come_back_from_their_fields() -> None:
    """What is written is read; no terms write nothing."""
    assert allotment_of(fields_of(TERMS)) == TERMS
    assert fields_of(NO_ALLOTMENT) == {}
    assert not NO_ALLOTMENT


def test_a_head_carries_its_terms() -> None:
    """A reader gets the terms with the snapshot; a head without any has no such field, so that old heads stay what they are."""
    snapshot = published(TERMS)
    head = decode_head(encode_head(snapshot))
    again = assemble(head, snapshot.arms)
    assert again is not None
    assert again.allotment == TERMS
    assert "allotment" not in msgspec.msgpack.decode(encode_head(published(NO_ALLOTMENT)), strict=False)


def test_a_rollback_keeps_the_terms_of_today() -> None:
    """An older policy does not bring back older prices."""
    old = published(NO_ALLOTMENT)
    assert (
        republish(old, version=5, parent=4, time_ms=0, reasons=(), paused=(), gone=(), allotment=TERMS).allotment
        == TERMS
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"kappa": {"top": -1.0}},
        {"price": {"b": float("nan")}},
        {"bonus": {"a": float("inf")}},
        {"price": [1.0]},
        {"closed": 3},
    ],
)
def test_impossible_terms_are_refused(fields: dict[str, Any]) -> None:
    """A head with terms that no decision can be made by is not decided from."""
    raw = msgspec.msgpack.decode(encode_head(published(TERMS)), strict=False)
    with pytest.raises(ValueError, match=r"must be|allotment"):
        allotment_of(fields)
    with pytest.raises((RecordError, msgspec.ValidationError)):
        decode_head(msgspec.msgpack.encode(raw | {"allotment": fields}))
