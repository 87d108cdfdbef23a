"""The communicator: a group of ranks that call collectives together."""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
import weakref
from ctypes import c_int32, c_void_p
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple, Union, cast

from . import interrupt
from .calls import Calls, Op, Request
from .dtypes import PremulSum, ReduceOp
from .errors import InvalidArgument, RoundelError
from .explain import explanation
from .library import CALLS, UNIQUE_ID_BYTES, UniqueIdStruct, check, integer, last_error, lib
from .mapped import Mapped, shape_of
from .premul import Made
from .settings import Options, Setting
from .survival import Survival
from .work import Work, in_flight, started

if TYPE_CHECKING:
    import numpy

__all__ = ["Communicator", "Group", "UniqueId"]


class UniqueId:
    """What all ranks of a job must know to find one another: 128 bytes, made in one process (usually rank 0's, which should
    live as long as the job) and handed to all by whatever way there is. Who reads it can join the job: pass it like a password.
    """

    def __init__(self, data: Optional[bytes] = None) -> None:
        """Opens a new job, or takes the bytes of an id that somebody else made."""
        self._struct = UniqueIdStruct()
        if data is None:
            check(lib.roundel_unique_id_create(self._struct))
        elif not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidArgument(f"an id is made of {UNIQUE_ID_BYTES} bytes, not of {type(data).__name__}")
        elif len(data) != UNIQUE_ID_BYTES:
            raise InvalidArgument(f"an id has {UNIQUE_ID_BYTES} bytes, not {len(data)}")
        else:
            ctypes.memmove(self._struct.bytes, bytes(data), UNIQUE_ID_BYTES)

    def __bytes__(self) -> bytes:
        return bytes(self._struct.bytes)

    def hex(self) -> str:
        """As the variable ``ROUNDEL_UNIQUE_ID`` wants it."""
        return bytes(self).hex()

    def __repr__(self) -> str:
        return "<roundel.UniqueId>"


class Communicator(Calls[None], Survival):
    """One rank's handle on a group of ranks.

    Every rank makes the same calls in the same order; what it passes may differ, what the call is may not. Calls on the
    communicator block until this rank's part is done, ``comm.start`` has the same calls nonblocking, ``comm.group()`` runs
    several together. Threads may share a communicator as long as all ranks see the same order of collectives.

    Use it as a context manager, or :meth:`close` it: other ranks are then told that this one has left.
    """

    def __init__(self, handle: Any) -> None:
        """Use :meth:`from_env`, :meth:`init` or :meth:`threads`."""
        self._handle = handle
        super().__init__(_number(lib.roundel_comm_rank, handle), _number(lib.roundel_comm_world, handle))
        #: The same calls, nonblocking: each gives a :class:`Work`.
        self.start = Starter(self)
        _open.add(self)
        interrupt.watch()

    @classmethod
    def from_env(cls, **settings: Setting) -> Communicator:
        """Joins the job that a launcher started this process in: torchrun, Open MPI, MPICH, Slurm, or ``ROUNDEL_RANK``,
        ``ROUNDEL_WORLD_SIZE`` and ``ROUNDEL_MASTER_ADDR``. Without any of them: a world of one. Blocks until all ranks are
        there. ``settings`` are those of the ``ROUNDEL_*`` variables, as in ``timeout_ms=5000`` or ``reproducible=True``.
        """
        handle = c_void_p()
        with Options(settings) as options:
            check(lib.roundel_init(handle, options))
        return cls(handle)

    @classmethod
    def init(cls, id: UniqueId, rank: int, world: int, **settings: Setting) -> Communicator:
        """Joins as ``rank`` of ``world`` the job that ``id`` names. Blocks until all ranks have, at most
        ``init_timeout_ms``; then the error says who is missing."""
        if not isinstance(id, UniqueId):
            raise InvalidArgument(f"id is of type {type(id).__name__}; expected a roundel.UniqueId")
        handle = c_void_p()
        with Options(settings) as options:
            check(
                lib.roundel_comm_init_rank(handle, integer("world", world), id._struct, integer("rank", rank), options)
            )
        return cls(handle)

    @classmethod
    def threads(cls, world: int, **settings: Setting) -> List[Communicator]:
        """All ``world`` ranks in this process, in order: one for each thread of the caller's."""
        if integer("world", world) < 1:
            raise InvalidArgument(f"a world of {world}; it has at least one rank")
        handles = (c_void_p * world)()
        with Options(settings) as options:
            check(lib.roundel_comm_init_threads(handles, world, options))
        return [cls(c_void_p(handle)) for handle in handles]

    # --- facts ---

    @property
    def hosts(self) -> List[List[int]]:
        """The ranks grouped by who shares memory with whom."""
        hosts: List[List[int]] = [[] for _ in range(_number(lib.roundel_comm_host_count, self._used()))]
        for rank in range(self._world):
            host = c_int32()
            check(lib.roundel_comm_host_of(self._used(), rank, host))
            hosts[host.value].append(rank)
        return hosts

    @property
    def transport(self) -> str:
        """What the ranks' links are made of: ``"memory"`` (threads of one process), ``"shm"``, ``"tcp"``,
        ``"fabric"`` (RDMA), ``"shm+tcp"`` or ``"shm+fabric"``."""
        name = ctypes.c_char_p()
        check(lib.roundel_comm_transport(self._used(), name))
        return (name.value or b"").decode()

    def explain(
        self,
        collective: str,
        count: int,
        dtype: str = "float32",
        op: Op = ReduceOp.SUM,
        root: int = 0,
        *,
        in_place: bool = False,
        mapped: bool = False,
    ) -> str:
        """How a call would run on this rank, for people: the algorithm, the transport and this rank's program. Runs nothing
        and asks nobody. ``collective`` is the name of the call (``"send_recv"`` for a message, from ``root``), ``count`` its
        elements: of the vector, or of one block where there are blocks; ``op`` and ``root`` matter where the call has them.
        ``mapped`` says that the buffers would come from :meth:`alloc`."""
        root = self._rank_of("root", root)
        return explanation(self._used(), collective, count, dtype, op, root, in_place=in_place, mapped=mapped)

    def check(self) -> None:
        """Raises the error that has ended the communicator, if one has. Never blocks."""
        check(lib.roundel_comm_status(self._used()))

    # --- what is more than a call ---

    def group(self) -> Group:
        """Collects calls and runs them together when the block ends::

            with comm.group() as group:
                group.send(mine, right)
                group.recv(theirs, left)

        Collectives keep their order, messages the order of each pair, and nothing waits for anything else. When the block
        raises, or a call is refused, none of them runs. No call may write what another one of the group uses.
        """
        return Group(self)

    def split(self, color: Optional[int], key: int = 0) -> Optional[Communicator]:
        """Ranks of the same ``color`` become a communicator of their own, ordered by ``key`` and then by their rank here; a
        rank with the color ``None`` gets none. Collective over all ranks, and blocking."""
        if color is not None and integer("color", color) < 0:
            raise InvalidArgument(f"color={color}; it is not negative, or None")
        integer("key", key, 64)
        handle = c_void_p()
        mine = self._used()
        with interrupt.guard(mine):
            check(lib.roundel_comm_split(mine, -1 if color is None else color, key, handle))
        return Communicator(handle) if handle.value else None

    def subset(self, ranks: Sequence[int]) -> Communicator:
        """The ranks ``ranks`` (their numbers here, in the new order) become a communicator of their own. Only they make this
        call, all with the same list; so it also works when other ranks are dead or this communicator has failed.
        :class:`PeerLost` when a member is dead; where it is not known who lives, :meth:`shrink` finds out. Blocks at most
        ``init_timeout_ms``."""
        members = [integer("a rank", rank) for rank in ranks]
        handle = c_void_p()
        mine = self._used()
        with interrupt.guard(mine):
            check(lib.roundel_comm_subset(mine, (c_int32 * len(members))(*members), len(members), handle))
        return Communicator(handle)

    def __copy__(self) -> Communicator:
        raise TypeError("a communicator cannot be copied: it is one rank's part in a job; use split() for another one")

    def __deepcopy__(self, _: Any) -> Communicator:
        return self.__copy__()

    def __reduce__(self) -> Any:
        raise TypeError("a communicator cannot be pickled: it is one rank's part in a job")

    def alloc(self, count: int, dtype: str = "float32") -> Mapped:
        """Zeroed memory for ``count`` elements that the other ranks of the host can reach, so that calls on it need no
        copies. Not collective: each rank allocates for itself, and calls find out whether all of them did. It may outlive the
        communicator."""
        return Mapped(self._used(), count, dtype)

    def empty_mapped(self, shape: Union[int, Sequence[int]], dtype: Any = "float32") -> numpy.ndarray[Any, Any]:
        """:meth:`alloc` as a NumPy array of this shape and type."""
        import numpy

        kind = numpy.dtype(dtype)
        extents, count = shape_of(shape)
        if count == 0:
            array = numpy.empty(0, kind)
        else:
            memory = Mapped(self._used(), count, kind.name)
            array = numpy.frombuffer(memory.bytes(), dtype=kind, count=count)
        return cast("numpy.ndarray[Any, Any]", array.reshape(extents))

    def abort(self, reason: str = "aborted by the program") -> None:
        """Ends the communicator on all ranks: calls in flight and later ones fail there with :class:`Aborted` and this
        reason. From any thread, while others are inside calls."""
        check(lib.roundel_comm_abort(self._used(), reason.replace("\0", "?").encode()))

    def close(self) -> None:
        """Ends this rank's part: waits for its calls in flight and tells the other ranks, where calls that still need this
        rank then fail. Closing twice is fine. To leave without waiting, :meth:`abort` first."""
        handle, self._handle = self._handle, None
        _open.discard(self)
        if handle is not None:
            with interrupt.guard(handle):
                check(lib.roundel_comm_destroy(handle))

    def __enter__(self) -> Communicator:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self._handle is not None:
            # An error is on its way up: the other ranks should not wait for this one, nor this one for them.
            lib.roundel_comm_abort(self._handle, f"rank {self._rank} left its block with an exception".encode())
        self.close()

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is None or sys.is_finalizing():
            return
        if in_flight():
            # The garbage collector must not wait for other ranks.
            threading.Thread(target=lib.roundel_comm_destroy, args=(handle,), daemon=True).start()
        else:
            lib.roundel_comm_destroy(handle)

    def __repr__(self) -> str:
        if self._handle is None:
            return f"<roundel.Communicator, rank {self._rank} of {self._world}, closed>"
        return f"<roundel.Communicator, rank {self._rank} of {self._world}, {self.transport}>"

    def _used(self) -> Any:
        if self._handle is None:
            raise InvalidArgument("the communicator is closed, or the process was forked since it was made")
        return self._handle

    def _issue(self, request: Request) -> None:
        function = _BLOCKING[request.function]
        arguments = request.arguments
        if request.function in _REDUCTIONS and isinstance(arguments[4], PremulSum):
            with Made(arguments[4], arguments[3]) as op:
                self._issue(request._replace(arguments=(*arguments[:4], op, *arguments[5:])))
            return
        handle = self._used()
        with interrupt.guard(handle):
            result = function(*arguments, handle)
            if result:
                raise last_error()


class Starter(Calls[Work]):
    """The calls of a communicator, nonblocking."""

    def __init__(self, comm: Communicator) -> None:
        self._comm = weakref.ref(comm)
        super().__init__(comm.rank, comm.world)

    def _issue(self, request: Request) -> Work:
        comm = self._comm()
        if comm is None:
            raise InvalidArgument("the communicator is gone")
        arguments = request.arguments
        if request.function in _REDUCTIONS and isinstance(arguments[4], PremulSum):
            with Made(arguments[4], arguments[3]) as op:
                return self._issue(request._replace(arguments=(*arguments[:4], op, *arguments[5:])))
        work = c_void_p()
        result = _STARTING[request.function](*arguments, comm._used(), work)
        if result:
            raise last_error()
        return started(work, request.keep)


class Group(Calls[None]):
    """Calls that run together; see :meth:`Communicator.group`. After the block, or :meth:`start`, it is empty again."""

    def __init__(self, comm: Communicator) -> None:
        super().__init__(comm.rank, comm.world)
        self._comm = comm
        self._requests: List[Request] = []

    def _issue(self, request: Request) -> None:
        self._requests.append(request)

    def start(self) -> Work:
        """Starts the calls; the work ends when all have."""
        work = c_void_p()
        keep = self._submit(lambda: lib.roundel_group_end_async(work))
        return started(work, keep)

    def run(self) -> None:
        """Runs the calls and returns when all have ended, with the first error."""
        self.start().wait()

    def _submit(self, end: Any) -> Tuple[Any, ...]:
        """Hands the calls over. The library's group belongs to the thread, so it is open only while this runs."""
        requests, self._requests = self._requests, []
        handle = self._comm._used()
        made: List[Any] = []
        check(lib.roundel_group_start())
        try:
            for request in requests:
                arguments = request.arguments
                if request.function in _REDUCTIONS and isinstance(arguments[4], PremulSum):
                    op = Made(arguments[4], arguments[3])
                    made.append(op)
                    arguments = (*arguments[:4], op.__enter__(), *arguments[5:])
                # A refused call is remembered, and the group's end tells it.
                _BLOCKING[request.function](*arguments, handle)
        finally:
            result = end()
            error = last_error() if result else None
            for op in made:
                op.__exit__()
        if error is not None:
            raise error
        return tuple(thing for request in requests for thing in request.keep)

    def __enter__(self) -> Group:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.run()
        else:
            self._requests = []


_BLOCKING = {name: getattr(lib, name) for name in CALLS}
_STARTING = {name: getattr(lib, f"{name}_async") for name in CALLS}
#: Calls whose fourth and fifth arguments are the element type and the operation.
_REDUCTIONS = frozenset(name for name in CALLS if "reduce" in name)


def _number(ask: Any, handle: Any) -> int:
    answer = c_int32()
    check(ask(handle, answer))
    return answer.value


#: Communicators that are not closed.
_open: weakref.WeakSet[Communicator] = weakref.WeakSet()


@atexit.register
def _say_goodbye() -> None:
    """A process that ends in good order tells its peers so, rather than looking dead."""
    if in_flight():
        # Closing would wait for other ranks, perhaps for long; they will notice by themselves.
        return
    for comm in list(_open):
        try:
            comm.close()
        except RoundelError:
            pass


def _forget_after_fork() -> None:
    """The child has none of the library's threads, and its parent's sockets are not its own."""
    for comm in list(_open):
        comm._handle = None
    _open.clear()
    interrupt.reset()


os.register_at_fork(after_in_child=_forget_after_fork)
