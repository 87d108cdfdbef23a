"""Who completes futures: threads of their own, never one that a call needs to make progress.

Callbacks of a future may start new calls and wait for them (torch's PowerSGD hook does), and what completes those must not be
the thread that is inside the callback. So one thread leads: it waits for the oldest call, and before it completes that call's
future it hands the lead to another. There are as many threads as callbacks that take long, plus one.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Callable, Deque, NamedTuple

#: A thread without work ends after this long.
_IDLE_S = 5.0


class Item(NamedTuple):
    #: Waits, without the interpreter's lock, until there is something to complete. Raises nothing.
    block: Callable[[], None]
    complete: Callable[[], None]


class Completer:
    """Completes futures in the order in which it is given them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: Deque[Item] = deque()
        self._led = False
        self._ready = 0

    def add(self, block: Callable[[], None], complete: Callable[[], None]) -> None:
        with self._changed:
            self._items.append(Item(block, complete))
            self._call_a_leader()

    def _call_a_leader(self) -> None:
        if self._led or not self._items:
            return
        if self._ready:
            self._changed.notify()
        else:
            self._ready += 1
            threading.Thread(target=self._serve, name="roundel-futures", daemon=True).start()

    def _serve(self) -> None:
        while True:
            with self._changed:
                # `_ready` counts this thread while it can take the lead.
                if not self._changed.wait_for(lambda: self._items and not self._led, _IDLE_S):
                    self._ready -= 1
                    return
                self._ready -= 1
                self._led = True
                item = self._items.popleft()
            item.block()
            with self._changed:
                self._led = False
                self._call_a_leader()
            item.complete()
            with self._changed:
                self._ready += 1


def alone(block: Callable[[], None], complete: Callable[[], None]) -> None:
    """On a thread of its own, for what keeps no order with anything else."""

    def serve() -> None:
        block()
        complete()

    threading.Thread(target=serve, name="roundel-future", daemon=True).start()
