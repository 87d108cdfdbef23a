"""Work as ``torch.distributed`` hands it out."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any, Callable, List, Optional, Sequence

import torch
from torch._C import _distributed_c10d as c10d

from ..errors import RoundelError, TimedOut
from ..work import Work as Flight
from .errors import as_dist_error
from .tensors import Finish

_NO_TIMEOUT = timedelta(0)


class Work(c10d.Work):  # type: ignore[misc]
    """Calls in flight of one collective, with what is left to do when they have ended.

    ``wait`` blocks inside the library, without the interpreter's lock, in slices, so that Ctrl-C works. What remains (copies out
    of staging memory) is done once, by whoever first finds the calls ended.
    """

    def __init__(
        self,
        flights: Sequence[Flight],
        result: List[torch.Tensor],
        finish: Finish,
        defer: Callable[[Callable[[], None], Callable[[], None]], None],
        give_up: Optional[Callable[[], RoundelError]] = None,
        limit_s: Optional[float] = None,
    ) -> None:
        """``defer`` completes futures. After ``limit_s``, waiting ends with ``give_up()``."""
        super().__init__()
        self._flights = flights
        self._result = result
        self._finish = finish
        self._defer = defer
        self._give_up = give_up
        self._deadline = None if limit_s is None else time.monotonic() + limit_s
        self._settling = threading.Lock()
        self._settled = False
        self._error: Optional[RoundelError] = None
        self._future: Optional[torch.futures.Future[Any]] = None

    # --- as torch asks ---

    def wait(self, timeout: timedelta = _NO_TIMEOUT) -> bool:
        if not self._settled:
            limit = timeout.total_seconds() if timeout > _NO_TIMEOUT else None
            if not self._block(limit):
                raise as_dist_error(TimedOut(f"the work is still in flight after {limit:.1f} s"))
        if self._error is not None:
            raise as_dist_error(self._error.copy())
        return True

    def synchronize(self) -> None:
        self.wait()

    def is_completed(self) -> bool:
        if not self._settled and self._ended():
            self._settle()
        return self._settled

    def is_success(self) -> bool:
        return self.is_completed() and self._error is None

    def exception(self) -> Optional[Exception]:
        if not self.is_completed() or self._error is None:
            return None
        return as_dist_error(self._error.copy())

    def result(self) -> List[torch.Tensor]:
        return self._result

    def source_rank(self) -> int:
        raise RuntimeError("only the work of a receive has a source rank")

    def _source_rank(self) -> int:
        return self.source_rank()

    def get_future(self) -> torch.futures.Future[Any]:
        with self._settling:
            if self._future is not None:
                return self._future
            future = self._future = torch.futures.Future()

        def complete() -> None:
            if self._error is None:
                future.set_result(self._result)
            else:
                # `set_exception` is for what a callback raised and prints nothing; waiters get the error itself.
                future.set_exception(as_dist_error(self._error.copy()))

        if self._settled:
            complete()
        else:
            self._defer(lambda: (self._block(None), None)[1], complete)
        return future

    # --- inside ---

    def _ended(self) -> bool:
        return all(flight.done() for flight in self._flights)

    def _block(self, limit_s: Optional[float]) -> bool:
        """Until the calls have ended, or for ``limit_s``; says whether they have."""
        deadline = None if limit_s is None else time.monotonic() + limit_s
        for flight in self._flights:
            while not flight.settle_within(_left(_earlier(deadline, self._deadline))):
                now = time.monotonic()
                if self._deadline is not None and now >= self._deadline and self._give_up is not None:
                    # Ends the communicator, so the call ends too, with an error.
                    self._fail(self._give_up())
                    self._deadline = None
                if deadline is not None and now >= deadline:
                    return False
        self._settle()
        return True

    def _fail(self, error: RoundelError) -> None:
        with self._settling:
            if self._error is None:
                self._error = error

    def _settle(self) -> None:
        with self._settling:
            if self._settled:
                return
            for flight in self._flights:
                if self._error is None:
                    self._error = flight.error()
            try:
                for step in self._finish if self._error is None else ():
                    step()
            except RoundelError as error:
                self._error = error
            self._finish = []
            self._flights = ()
            self._settled = True


class Done(Work):
    """Work that had ended when it was handed out."""

    def __init__(self, result: List[torch.Tensor]) -> None:
        c10d.Work.__init__(self)
        self._result = result
        self._settling = threading.Lock()
        self._settled = True
        self._error = None
        self._future = None

    def wait(self, timeout: timedelta = _NO_TIMEOUT) -> bool:
        return True


def _earlier(one: Optional[float], other: Optional[float]) -> Optional[float]:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)


def _left(deadline: Optional[float]) -> Optional[float]:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
