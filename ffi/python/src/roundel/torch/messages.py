"""Messages between two ranks of a process group, and what the library's own messages lack: tags, receiving from anybody, and
messages of a rank to itself.

The library keeps the messages of a pair in order and knows no tags. A message with a tag other than 0 is therefore sent as two,
the tag first; a receive that expects another tag fails and says so. Messages of a pair are thus matched in the order in which they
were sent, whatever their tags.

Receiving from anybody needs to know who has sent. Senders keep count, for nothing; once a rank wants to receive from anybody it says
so in the group's store, and those who send to it publish their counts there from then on. A thread of each sender looks for that
wish, rarely once nothing has changed for a while: the first receive from anybody may so take up to two seconds to be served.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from ctypes import addressof, c_int64, memmove, sizeof
from typing import Any, Callable, Deque, Dict, List, Optional, Set, Tuple

import torch

from ..communicator import Communicator
from ..errors import Mismatch, RoundelError, TimedOut
from ..memory import Memory
from ..work import Work as Flight
from . import futures
from .errors import translated
from .tensors import Finish, source, target
from .work import Work

_PAUSES_S = (0.002, 2.0)
_SLICE_S = 0.1
#: How long a rank that leaves waits for messages that it has not seen the end of.
_GOODBYE_S = 2.0


class Messages:
    """The messages of one rank of a process group."""

    def __init__(self, comm: Communicator, store: Any, timeout_s: Callable[[], float]) -> None:
        self._comm = comm
        self._store = store
        self._timeout_s = timeout_s
        self._to_self = ToSelf()
        self._lock = threading.Lock()
        #: Messages sent to each rank, and receives posted for each.
        self._sent: Dict[int, int] = {}
        self._posted: Dict[int, int] = {}
        #: Messages that may not have ended, oldest first.
        self._open: Deque[Flight] = deque()
        #: Receivers that want to know.
        self._listeners: Set[int] = set()
        self._wish_is_out = False
        self._look: Optional[threading.Thread] = None
        self._closed = threading.Event()

    def send(self, tensor: torch.Tensor, to: int, tag: int) -> Work:
        given = source(tensor)
        if to == self._comm.rank:
            return self._to_self.send(given, tag, tensor)
        with self._lock, translated():
            flights = [self._comm.start.send(_tag(tag), to)] if tag else []
            flights.append(self._comm.start.send(given, to))
            self._remember(flights)
            self._sent[to] = self._sent.get(to, 0) + 1
            if to in self._listeners:
                self._publish(to)
            elif self._look is None and self._comm.world > 1:
                self._look = threading.Thread(target=self._look_for_listeners, name="roundel-listeners", daemon=True)
                self._look.start()
        return Work(flights, [tensor], [], futures.alone)

    def recv(self, tensor: torch.Tensor, source_rank: int, tag: int) -> Work:
        finish: Finish = []
        taken = target(tensor, finish)
        if source_rank == self._comm.rank:
            return self._to_self.recv(taken, tag, tensor, finish)
        with self._lock, translated():
            flights = self._post(taken, source_rank, tag, finish)
        return Receive(flights, [tensor], finish, source_rank)

    def recv_from_anybody(self, tensor: torch.Tensor, tag: int) -> Work:
        finish: Finish = []
        return AnybodyReceive(self, target(tensor, finish), [tensor], finish, tag, self._timeout_s())

    def close(self) -> None:
        self._closed.set()
        if self._look is not None:
            self._look.join()
        with self._lock, contextlib.suppress(Exception):  # the store may have gone before
            # Small messages arrive also when their sender has left: whoever wants to receive from anybody must know of them.
            for rank in self._sent:
                if rank not in self._listeners:
                    self._publish(rank)
        # Leaving waits for calls in flight, and a message that never meets its other end would be waited for until it times out.
        deadline = time.monotonic() + _GOODBYE_S
        if not all(flight.settle_within(max(0.0, deadline - time.monotonic())) for flight in list(self._open)):
            with contextlib.suppress(RoundelError):
                self._comm.abort(f"rank {self._comm.rank} shut down while it had messages that nobody took or sent")

    # --- inside; all but the threads' bodies under the lock ---

    def _post(self, taken: Memory, source_rank: int, tag: int, finish: Finish) -> List[Flight]:
        flights = []
        if tag:
            came = _tag(0)
            flights.append(self._comm.start.recv(came, source_rank))
            finish.insert(0, lambda: _compare_tags(tag, came, source_rank))
        flights.append(self._comm.start.recv(taken, source_rank))
        self._remember(flights)
        self._posted[source_rank] = self._posted.get(source_rank, 0) + 1
        return flights

    def _remember(self, flights: List[Flight]) -> None:
        while self._open and self._open[0].done():
            self._open.popleft()
        self._open.extend(flights)

    def _publish(self, to: int) -> None:
        self._store.set(_count_key(to, self._comm.rank), str(self._sent[to]))

    def _look_for_listeners(self) -> None:
        pause, longest = _PAUSES_S
        known = 0
        while not self._closed.wait(pause):
            with self._lock:
                candidates = [rank for rank in self._sent if rank not in self._listeners]
            if len(candidates) > known:
                pause = _PAUSES_S[0]
            known = len(candidates)
            pause = min(pause * 1.5, longest)
            try:
                for rank in candidates:
                    if self._store.check([_wish_key(rank)]):
                        with self._lock:
                            self._listeners.add(rank)
                            self._publish(rank)
            except Exception:  # the store is gone, and with it anybody who could have a wish
                return

    def take_next(self, taken: Memory, tag: int, finish: Finish) -> Optional[Tuple[int, List[Flight]]]:
        """Posts a receive for a message that somebody has sent, if there is one."""
        me = self._comm.rank
        with self._lock:
            if not self._wish_is_out:
                self._store.set(_wish_key(me), "1")
                self._wish_is_out = True
            for rank in range(self._comm.world):
                if rank == me or not self._store.check([_count_key(me, rank)]):
                    continue
                if int(self._store.get(_count_key(me, rank))) > self._posted.get(rank, 0):
                    return rank, self._post(taken, rank, tag, finish)
        return None

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()


class Receive(Work):
    """A message that is on its way."""

    def __init__(self, flights: List[Flight], result: List[torch.Tensor], finish: Finish, source_rank: int) -> None:
        super().__init__(flights, result, finish, futures.alone)
        self._source = source_rank

    def source_rank(self) -> int:
        return self._source


class AnybodyReceive(Work):
    """A message from whoever sends one. A thread looks for it, so that it arrives whether or not anybody waits."""

    def __init__(
        self, messages: Messages, taken: Memory, result: List[torch.Tensor], finish: Finish, tag: int, timeout_s: float
    ) -> None:
        super().__init__((), result, finish, futures.alone)
        self._source = -1
        self._found = threading.Event()
        # The class expects flights only once they are known; until then it has not ended.
        futures.alone(lambda: self._find(messages, taken, finish, tag, timeout_s), lambda: None)

    def _find(self, messages: Messages, taken: Memory, finish: Finish, tag: int, timeout_s: float) -> None:
        pause, longest = _PAUSES_S[0], 0.02
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                found = messages.take_next(taken, tag, finish)
                if found is not None:
                    self._source, self._flights = found
                    return
                if messages.is_closed:
                    raise RoundelError("the process group was shut down before anybody sent a message")
                if time.monotonic() >= deadline:
                    raise TimedOut(f"nobody sent a message within {timeout_s:.1f} s", operation="send_recv")
                time.sleep(pause)
                pause = min(pause * 1.5, longest)
        except RoundelError as error:
            self._fail(error)
        except Exception as error:  # the store
            self._fail(RoundelError(f"receiving from anybody: {error}"))
        finally:
            self._found.set()

    def _ended(self) -> bool:
        return self._found.is_set() and super()._ended()

    def _block(self, limit_s: Optional[float]) -> bool:
        deadline = None if limit_s is None else time.monotonic() + limit_s
        while not self._found.wait(
            _SLICE_S if deadline is None else min(_SLICE_S, max(0.0, deadline - time.monotonic()))
        ):
            if deadline is not None and time.monotonic() >= deadline:
                return False
        return super()._block(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def source_rank(self) -> int:
        return self._source


class ToSelf:
    """Messages of a rank to itself: copied when both ends are there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sends: Deque[SelfWork] = deque()
        self._recvs: Deque[SelfWork] = deque()

    def send(self, given: Memory, tag: int, tensor: torch.Tensor) -> Work:
        return self._meet(SelfWork(given, tag, tensor, []), self._sends, self._recvs)

    def recv(self, taken: Memory, tag: int, tensor: torch.Tensor, finish: Finish) -> Work:
        return self._meet(SelfWork(taken, tag, tensor, finish), self._recvs, self._sends)

    def _meet(self, mine: SelfWork, same: Deque[SelfWork], other: Deque[SelfWork]) -> Work:
        with self._lock:
            if not other:
                same.append(mine)
                return mine
            theirs = other.popleft()
        sent, received = (mine, theirs) if same is self._sends else (theirs, mine)
        error = _copy(sent, received)
        for work in (sent, received):
            work.end(error)
        return mine


class SelfWork(Work):
    """One end of a message of a rank to itself."""

    def __init__(self, memory: Memory, tag: int, tensor: torch.Tensor, finish: Finish) -> None:
        super().__init__((), [tensor], finish, futures.alone)
        self.memory = memory
        self.tag = tag
        self._met = threading.Event()

    def end(self, error: Optional[RoundelError]) -> None:
        if error is not None:
            self._fail(error)
        self._met.set()

    def _ended(self) -> bool:
        return self._met.is_set()

    def _block(self, limit_s: Optional[float]) -> bool:
        deadline = None if limit_s is None else time.monotonic() + limit_s
        while not self._met.wait(_SLICE_S):
            if deadline is not None and time.monotonic() >= deadline:
                return False
        return super()._block(0)

    def source_rank(self) -> int:
        raise RuntimeError("a message of this rank to itself")


def _copy(sent: SelfWork, received: SelfWork) -> Optional[RoundelError]:
    one, other = sent.memory, received.memory
    if sent.tag != received.tag:
        return Mismatch(f"this rank sends itself tag {sent.tag} but receives tag {received.tag}", operation="send_recv")
    if one.element is not other.element or one.count != other.count:
        return Mismatch(f"this rank sends itself {one!r} but receives {other!r}", operation="send_recv")
    memmove(other.address, one.address, one.size_bytes)
    return None


def _wish_key(receiver: int) -> str:
    return f"roundel/any/{receiver}"


def _count_key(receiver: int, sender: int) -> str:
    return f"roundel/any/{receiver}/{sender}"


def _tag(tag: int) -> Memory:
    value = c_int64(tag)
    return Memory(addressof(value), sizeof(value), "uint8", owner=value)


def _compare_tags(expected: int, came: Memory, source_rank: int) -> None:
    tag = came.owner.value  # type: ignore[attr-defined]
    if tag != expected:
        raise Mismatch(
            f"expected tag {expected} from rank {source_rank}, but its next message has tag {tag}; messages between two ranks are "
            "received in the order in which they were sent",
            ranks=(source_rank,),
            operation="send_recv",
        )
