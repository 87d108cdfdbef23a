"""Ctrl-C while a blocking call is inside the library.

The interpreter raises ``KeyboardInterrupt`` between two of its instructions, and a call that waits for other ranks may be a long
single one. Waiting in slices, as :meth:`roundel.Work.wait` does, costs a blocking call more than a small one takes; so here a
thread sleeps on the interpreter's own signal pipe (``signal.set_wakeup_fd``), and a call that is still inside when the user has
asked for an end has its communicator aborted: the call returns, and the interpreter raises what it wanted to.

It does nothing where the program handles the signal itself, or uses the signal pipe for something else (asyncio).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any, Callable, List, Optional, Tuple, TypeVar, cast

from .library import lib

R = TypeVar("R")

#: A call that is about to end by itself may.
_GRACE_S = 0.2

#: The communicator's handle, while the main thread is in a blocking call; a new object for every call.
_inside: Optional[list[Any]] = None
_pipe: Optional[int] = None
_main = threading.main_thread().ident


class guard:
    """``with guard(handle):`` around a blocking call."""

    __slots__ = ("_call",)

    def __init__(self, handle: Any) -> None:
        self._call = [handle]

    def __enter__(self) -> None:
        global _inside
        if threading.get_ident() == _main:
            _inside = self._call

    def __exit__(self, *_: object) -> None:
        global _inside
        if _inside is self._call:
            _inside = None


def apart(call: Callable[[], R], handle: Any = None) -> R:
    """Runs a blocking call that an abort would not end, because it waits for other ranks through the control plane: on a thread
    of its own, from which the interpreter can be called away. The call then goes on until its deadline, for nobody, and the
    communicator ``handle`` is aborted, so that other ranks do not wait for more."""
    if threading.get_ident() != _main:
        return call()
    watch()
    ended: List[Tuple[Optional[R], Optional[BaseException]]] = []

    def run() -> None:
        try:
            ended.append((call(), None))
        except BaseException as error:
            ended.append((None, error))

    thread = threading.Thread(target=run, name="roundel-call", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        if handle is not None:
            lib.roundel_comm_abort(handle, b"interrupted by Ctrl-C")
        raise
    outcome, error = ended[0]
    if error is not None:
        raise error
    return cast(R, outcome)


def watch() -> None:
    """Begins to watch, if this is the main thread and nobody else does."""
    global _pipe
    if _pipe is not None or threading.get_ident() != _main:
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    except ValueError:  # not the main interpreter
        before = writing
    if before not in (-1, writing):
        signal.set_wakeup_fd(before)
        before = writing
    if before == writing:
        os.close(reading)
        os.close(writing)
        return
    _pipe = writing
    threading.Thread(target=_watch, args=(reading,), name="roundel-interrupt", daemon=True).start()


def _watch(reading: int) -> None:
    while True:
        if signal.SIGINT not in os.read(reading, 64):
            continue
        call = _inside
        if call is None or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            continue
        time.sleep(_GRACE_S)
        if _inside is call:
            lib.roundel_comm_abort(call[0], b"interrupted by Ctrl-C")


def reset() -> None:
    """In a forked child: the pipe and the thread are the parent's."""
    global _pipe, _inside, _main
    _main = threading.get_ident()
    _inside = None
    if _pipe is not None:
        try:
            signal.set_wakeup_fd(-1)
        except ValueError:
            pass
        os.close(_pipe)
        _pipe = None
