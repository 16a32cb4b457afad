"""What the learner asks of an outcome's token before anything else: that it is ours, and of this outcome's decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from streams.decoded import ESTIMATE, Brought
from streams.tokens import ExpiredTokenError, Keys, TokenError, authentic
from streams.validation import dimension_reason

if TYPE_CHECKING:
    from streams.decode_rows import OutcomeRow
    from streams.decoded import Names


class TokenCheck:
    """Reads tokens. ``dimensions``: of the policies with tokens on, the length of a context; 0 where none is used."""

    def __init__(self, keys: Keys, *, dimensions: Mapping[str, int]) -> None:
        self._keys = keys
        self._dimensions = dimensions

    def brought(self, row: OutcomeRow, latest: int, *, arms: Mapping[str, Names], slots: Names) -> Brought | None:
        """The impression that an outcome's token tells of, None if its policy has tokens off: then the outcome is like one without.

        Args:
            row: an outcome with a token.
            latest: the largest event time that its record may carry, ms.
            arms: numbers of the arms' names by policy.
            slots: numbers of the slots' names.

        Raises:
            TokenError: it is forged, of a key that is not known, from the future, or of another decision.
        """
        found = authentic(row.token or "", self._keys)
        dimension = self._dimensions.get(found.policy)
        if dimension is None:
            return None
        if (found.decision_id, found.slot) != (row.decision_id, row.slot):
            raise TokenError(
                f"it is of decision {found.decision_id!r}, slot {found.slot!r}, and the outcome of {row.decision_id!r}, {row.slot!r}; "
                "send an outcome with the token of its own decision"
            )
        if found.ts > latest:
            raise ExpiredTokenError(f"it is of ts {found.ts}; allowed: up to {latest} (5 minutes after the record's)")
        if dimension and len(found.context) != dimension:
            raise TokenError(dimension_reason(len(found.context), dimension, found.policy))
        return Brought(
            found.policy,
            arms[found.policy][found.arm],
            slots[found.slot],
            found.ts,
            -1 if found.snapshot is None else found.snapshot,
            found.propensity,
            found.context[:dimension].astype(np.float32),
            ESTIMATE if found.estimated else 0,
            row.token or "",
        )
