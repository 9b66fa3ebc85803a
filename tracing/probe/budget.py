"""How much time probes may take: a share of the training they interrupt."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Budget:
    """Seconds spent inside and outside ``spending()``, and whether one more visit is affordable.

    ``max_share``: largest share of the time outside; None sets no bound. The first visit and one
    at the very end are taken for granted, and their cost is spread evenly over the run, so that
    the visits between them are evenly spread too. State goes into the checkpoint, so a resumed
    run keeps its account. What a visit costs is the median of those before: a machine that was
    busy once does not silence the rest.
    """

    def __init__(
        self, max_share: float | None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        if max_share is not None and not max_share > 0:
            raise ValueError(f"max_share={max_share}; use a positive share (0.03) or null.")
        self.max_share, self.clock = max_share, clock
        self.visits: list[float] = []  # s
        self.outside = 0.0  # s
        self._left: float | None = None  # clock when the outside was last counted; None inside
        self._entered = 0.0

    def start(self) -> None:
        """The clock of the outside runs from here on."""
        self._left = self.clock()

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Time in here is spent."""
        self._settle()
        self._left, self._entered = None, self.clock()
        try:
            yield
        finally:
            self._left = self.clock()
            self.visits.append(self._left - self._entered)

    @property
    def spent(self) -> float:
        """Seconds of all visits."""
        return sum(self.visits)

    def affords(self, progress: float) -> bool:
        """Whether one more visit fits in, ``progress`` (0 to 1) into the run.

        At progress 1 it does only if all visits so far, this one and one at the very end stay
        within the share together.
        """
        self._settle()
        if self.max_share is None or not self.visits:
            return True
        cost = statistics.median(self.visits)
        granted = progress * (self.visits[0] + cost)
        between = sum(self.visits[1:]) + cost
        return between + granted <= self.max_share * self.outside

    @property
    def share(self) -> float:
        """Seconds spent per second outside, this visit included; NaN before any time outside."""
        self._settle()
        spent = self.spent + (self.clock() - self._entered if self._left is None else 0.0)
        return spent / self.outside if self.outside else float("nan")

    def _settle(self) -> None:
        if self._left is not None:
            now = self.clock()
            self.outside, self._left = self.outside + now - self._left, now

    def state_dict(self) -> dict[str, Any]:
        self._settle()
        return {"visits": list(self.visits), "outside": self.outside}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.visits, self.outside = list(state["visits"]), state["outside"]
