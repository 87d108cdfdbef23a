"""Calls in flight."""

from __future__ import annotations

import threading
import time
from typing import Any, List, Optional, Tuple

from .errors import RoundelError
from .library import IN_PROGRESS, last_error, lib

__all__ = ["Work"]

#: The interpreter looks for signals between two waits of this length.
SLICE_MS = 100


class Work:
    """A call, or a group of calls, that goes on by itself. It keeps the buffers alive until it has ended, also when nobody
    keeps the work; they must not be touched before.

    ``with comm.start.all_reduce(x): ...`` waits at the end of the block.
    """

    __slots__ = ("__weakref__", "_ended", "_error", "_handle", "_keep", "_lock")

    def __init__(self, handle: Any, keep: Tuple[Any, ...]) -> None:
        self._handle = handle
        self._keep = keep
        global _in_flight
        self._ended = False
        self._error: Optional[RoundelError] = None
        self._lock = threading.Lock()
        with _counting:
            _in_flight += 1

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Blocks until the call has ended, without the interpreter's lock, and raises its error if it failed. After
        ``timeout`` seconds it gives up waiting, not the call, and returns ``False``. Ctrl-C works meanwhile."""
        ended = self.settle_within(timeout)
        if ended and self._error is not None:
            raise self._error.copy()
        return ended

    def done(self) -> bool:
        """Whether the call has ended, well or badly. Never blocks."""
        if not self._ended:
            self._note(lib.roundel_work_test(self._handle))
        return self._ended

    def error(self) -> Optional[RoundelError]:
        """The error of a call that has failed, else ``None``. Never blocks."""
        return self._error if self.done() else None

    def settle_within(self, seconds: Optional[float] = None) -> bool:
        """:meth:`wait` that leaves the error for :meth:`error`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._ended:
            limit_ms = SLICE_MS
            if deadline is not None:
                limit_ms = min(limit_ms, max(0, int((deadline - time.monotonic()) * 1000)))
            self._note(lib.roundel_work_wait_for(self._handle, limit_ms))
            if not self._ended and deadline is not None and time.monotonic() >= deadline:
                return False
        return True

    def _note(self, result: int) -> None:
        """Takes down how the call ended, if it has. Several threads may come here; what a late one learns of a handle that
        the first has given back is of no interest."""
        if result == IN_PROGRESS:
            return
        error = last_error() if result else None
        with self._lock:
            if self._ended:
                return
            self._error = error
            self._ended = True
            self._keep = ()
            _free(self._handle)

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def __del__(self) -> None:
        # Peers may be reading and writing the buffers: they must outlive the call, and a destructor must not wait for it.
        if not self._ended:
            _forgotten.append((self._handle, self._keep))
            sweep()

    def __repr__(self) -> str:
        state = "in flight" if not self.done() else "ended" if self._error is None else f"failed: {self._error}"
        return f"<roundel.Work, {state}>"


_in_flight = 0
# The collector may run a destructor that counts while this thread counts.
_counting = threading.RLock()

#: Works that nobody holds, with their buffers.
_forgotten: List[Tuple[Any, Tuple[Any, ...]]] = []


def sweep() -> None:
    """Lets go of forgotten works that have ended. What became of them is in the communicator's next call."""
    for _ in range(len(_forgotten)):
        try:
            handle, keep = _forgotten.pop(0)
        except IndexError:  # another thread sweeps
            return
        if lib.roundel_work_test(handle) == IN_PROGRESS:
            _forgotten.append((handle, keep))
        else:
            _free(handle)


def _free(handle: Any) -> None:
    global _in_flight
    lib.roundel_work_free(handle)
    with _counting:
        _in_flight -= 1


def in_flight() -> int:
    """How many works have not been seen to end."""
    sweep()
    return _in_flight


def started(handle: Any, keep: Tuple[Any, ...]) -> Work:
    """The work of a call that has just been started."""
    if _forgotten:
        sweep()
    return Work(handle, keep)
