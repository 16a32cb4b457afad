"""Texts of contexts and arms as features, where decisions are made: from what is here, without waiting for anything.

A text whose vector is not here is asked for, and until it comes its features are at the mean, 0, and the match is 0; `Compiled`
says which. Vectors are looked up under the encoder that the policy's projection was made for, whichever is at work.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from policies.arm_contexts import ArmContexts
from policies.arm_features import standardised
from streams import logs
from streams.embedding_client import EmbeddingClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    import numpy.typing as npt

    from policies.arm_features import Features as ArmFeatures
    from policies.batch import FloatArray
    from policies.features import Features, Value
    from policies.projection import Projection
    from streams.settings import Settings

ASK_AGAIN_S = 60.0
"""Seconds after which a text without a vector is asked for again."""
MOST_ASKED = 20_000
"""Texts that are remembered as asked for."""
CLOSE_S = 1.0
"""Seconds that ending may take."""
LOOK_AGAIN_S = 1.0
"""Seconds between two looks for arms' vectors that were not there."""

log = logs.get(__name__)


class Source(Protocol):
    """Where vectors come from: an `EmbeddingClient`, or a stand-in."""

    def get(self, text: str, *, encoder: str | None = None) -> npt.NDArray[np.float32] | None: ...  # noqa: D102
    def projection(self, name: str) -> Projection | None: ...  # noqa: D102
    def ask(self, text: str) -> bool: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Compiled:
    """A context, and the names of the texts in it that have no vector yet; arms as "ads.NAME"."""

    context: FloatArray | ArmContexts
    missing: tuple[str, ...] = ()


class Texts:
    """Makes contexts from values with texts among them. Safe from several threads.

    Args:
        settings: the policies' features, and their arms' texts.
        source: of vectors and projections; None is Kafka, reached in the background: what is not there yet is missing.
        arms_only: for arms' features alone, of the policies that have `arm_texts`.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source | None = None,
        *,
        arms_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._ending = threading.Event()
        self._client: EmbeddingClient | None = None
        self._source = source
        self._lock = threading.Lock()
        self._asked: OrderedDict[str, float] = OrderedDict()
        self._arms = {
            name: _Arms(policy.arms_texts, policy.features.projection)
            for name, policy in settings.policies.items()
            if policy.features is not None
            and policy.features.projection is not None
            and (policy.arm_texts or not arms_only)
        }
        self._lengths = {name: settings.policies[name].arm_texts for name in self._arms}
        self._thread: threading.Thread | None = None
        if source is None and self._arms:
            self._thread = threading.Thread(target=self._reach, args=(settings,), name="clickloop-texts", daemon=True)
            self._thread.start()

    def compiled(self, policy: str, features: Features, values: Mapping[str, Value]) -> Compiled:
        """The context of a policy's values. Raises FeatureError as `Features.vector`."""
        if policy not in self._arms:
            return Compiled(features.vector(values))
        features.vector(values)  # before anything is asked for
        projection = self._projection(features.projection)
        found: dict[str, npt.NDArray[np.float32]] = {}
        missing = []
        for name in features.texts:
            text = values[name]
            if not isinstance(text, str):
                continue
            vector = self._vector(text, projection)
            if vector is None:
                missing.append(name)
            else:
                found[name] = vector
        components = {} if projection is None else {name: projection.components(one) for name, one in found.items()}
        x = features.vector(values, components)
        if features.match is None:
            return Compiled(x, tuple(missing))
        arms = self._arms[policy]
        absent = tuple(f"ads.{arm}" for arm in self._look(arms, projection))
        other = found.get(features.match)
        by_arm = (
            {} if projection is None or other is None else arms.matches(projection.centred(other) / projection.spread)
        )
        return Compiled(ArmContexts(x=x, column=len(x) - 1, by_arm=by_arm), (*missing, *absent))

    def arm_features(self, policy: str) -> ArmFeatures | None:
        """Features of the arms whose text has a vector, of `arm_texts` components; None if there are none."""
        arms = self._arms.get(policy)
        length = self._lengths.get(policy, 0)
        if arms is None or not length:
            return None
        projection = self._projection(arms.projection)
        missing = self._look(arms, projection)
        if missing:
            log.info("arms' texts have no vectors yet; they start from the mean arm", policy=policy, arms=len(missing))
        if projection is None or not arms.centred:
            return None
        rows = {arm: (projection.matrix[:length] @ u).tolist() for arm, u in sorted(arms.centred.items())}
        return standardised(rows)

    def close(self) -> None:
        """Stop asking and following."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(timeout=CLOSE_S)  # it may be waiting for brokers that are not there; it ends by itself
        if self._client is not None:
            self._client.close(CLOSE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait(self, ready: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until something is so that vectors bring about; whether it is."""
        until = time.monotonic() + timeout_s
        while not ready() and time.monotonic() < until:
            time.sleep(0.02)
        return ready()

    def _projection(self, name: str | None) -> Projection | None:
        return None if self._source is None or name is None else self._source.projection(name)

    def _vector(self, text: str, projection: Projection | None) -> npt.NDArray[np.float32] | None:
        """What is here; asked for if it is not. A vector of another length counts as none."""
        source = self._source
        vector = None if source is None or projection is None else source.get(text, encoder=projection.encoder)
        if vector is None:
            self._ask(text)
            return None
        return vector if projection is not None and len(vector) == projection.dimension else None

    def _ask(self, text: str) -> None:
        now, source = self._clock(), self._source
        with self._lock:
            if source is None or now - self._asked.get(text, -np.inf) < ASK_AGAIN_S or not source.ask(text):
                return
            self._asked.pop(text, None)
            self._asked[text] = now
            if len(self._asked) > MOST_ASKED:
                self._asked.popitem(last=False)

    def _look(self, arms: _Arms, projection: Projection | None) -> tuple[str, ...]:
        """Take arms' vectors that have come; those that have none."""
        now = self._clock()
        if not arms.missing or now - arms.looked < LOOK_AGAIN_S:
            return arms.missing
        found = {}
        for arm in arms.missing:
            vector = self._vector(arms.texts[arm], projection)
            if vector is not None and projection is not None:
                found[arm] = projection.centred(vector)
        arms.looked = now
        if found:
            arms.take(found)
        return arms.missing

    def _reach(self, settings: Settings) -> None:
        told = ""
        while not self._ending.is_set():
            try:
                client = EmbeddingClient(settings)
            except Exception as error:  # noqa: BLE001 - whatever it is, deciding goes on with the mean, and the reason is shown
                if str(error) != told:
                    log.warning("vectors of texts cannot be followed; trying again", why=str(error))
                told = str(error)
                self._ending.wait(1.0)
            else:
                if self._ending.is_set():
                    client.close(CLOSE_S)
                else:
                    self._source = self._client = client
                return


class _Arms:
    """Texts of a policy's arms and what is known of their vectors; replaced as a whole, so that readers see no half."""

    def __init__(self, texts: Mapping[str, str], projection: str) -> None:
        self.texts = texts
        self.projection = projection
        self.looked = -np.inf
        self.centred: dict[str, FloatArray] = {}
        self._known: tuple[tuple[str, ...], FloatArray] = ((), np.zeros((0, 0)))

    @property
    def missing(self) -> tuple[str, ...]:
        """Arms that have a text and no vector."""
        if len(self.centred) == len(self.texts):
            return ()
        return tuple(arm for arm in self.texts if arm not in self.centred)

    def take(self, found: Mapping[str, FloatArray]) -> None:
        """More arms' vectors, the mean taken out."""
        self.centred = {**self.centred, **found}
        self._known = tuple(self.centred), np.array(list(self.centred.values()))

    def matches(self, other: FloatArray) -> dict[str, float]:
        """Match of each arm whose vector is known."""
        names, rows = self._known
        return dict(zip(names, (rows @ other).tolist(), strict=True)) if names else {}
