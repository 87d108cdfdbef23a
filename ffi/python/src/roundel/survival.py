"""Going on after a death, and taking in newcomers."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from ctypes import c_bool, c_int32, c_void_p
from typing import Any, List, Optional, Type, TypeVar, Union

from . import interrupt
from .calls import Op, operation
from .dtypes import PremulSum, ReduceOp
from .errors import InvalidArgument
from .library import INVITATION_TEXT_BYTES, check, lib
from .memory import Memory, memory
from .premul import Made
from .settings import Options, Setting

__all__ = ["Survival"]

C = TypeVar("C", bound="Survival")


class Survival(ABC):
    """What a communicator can do beside calls when ranks die or come."""

    @abstractmethod
    def __init__(self, handle: Any) -> None:
        """Owns the handle of the C library."""

    @abstractmethod
    def _used(self) -> Any:
        """The handle, if it may be used."""

    @classmethod
    def enlist(cls: Type[C], invitation: str, **settings: Setting) -> C:
        """Becomes a rank of a job that runs, by the :meth:`invitation` of one of its ranks: blocks until its members
        :meth:`grow`, at most ``init_timeout_ms``. Settings that the members share must be theirs."""
        if not isinstance(invitation, str) or "\0" in invitation:
            raise InvalidArgument("an invitation is the text that invitation() gives")

        def enlisted() -> C:
            handle = c_void_p()
            with Options(settings) as options:
                check(lib.roundel_enlist(handle, invitation.encode("utf-8", "replace"), options))
            return cls(handle)

        return interrupt.apart(enlisted)

    @property
    def epoch(self) -> int:
        """How many times the membership had changed (:meth:`shrink`, :meth:`grow`) when this communicator was made."""
        epoch = c_int32()
        check(lib.roundel_comm_epoch(self._used(), epoch))
        return epoch.value

    @property
    def members(self) -> List[int]:
        """The number that each rank had when the job began, in the order of ranks; new numbers go to those who joined
        later."""
        world = c_int32()
        check(lib.roundel_comm_world(self._used(), world))
        members = (c_int32 * world.value)()
        check(lib.roundel_comm_members(self._used(), members, len(members)))
        return list(members)

    def shrink(self: C) -> C:
        """The ranks that live become a communicator of their own, in the same processes and in the same order. All of them
        make this call (after the :class:`PeerLost` that told them of a loss, they all can); the dead are not waited for, and
        whoever dies meanwhile is left out too. This communicator is not changed: it has failed, as a rule, and is closed.

        Blocks until all that live have called, at most ``init_timeout_ms``. :class:`PeerLost` where so many cannot be
        reached, without being known to be dead, that they may be going on by themselves: of a network cut in two at most one
        side goes on."""
        mine = self._used()

        def shrunk() -> C:
            handle = c_void_p()
            check(lib.roundel_shrink(mine, handle))
            return type(self)(handle)

        return interrupt.apart(shrunk, mine)

    def agree(self, flag: bool) -> bool:
        """True on all ranks that live when all of them said ``True``: one answer everywhere, also when ranks die meanwhile and
        when this communicator has failed. What a step of training needs to know before it counts as done. All ranks that
        live make this call; where one of them shrinks instead the answer is ``False``. Blocks until they have, at most
        ``timeout_ms``; takes some 100 us."""
        mine = self._used()

        def agreed() -> bool:
            answer = c_bool()
            check(lib.roundel_agree(mine, bool(flag), answer))
            return answer.value

        return interrupt.apart(agreed, mine)

    def all_reduce_preserving(self, data: Any, op: Op = ReduceOp.SUM) -> None:
        """``all_reduce`` in place that either changes ``data`` on every rank that lives or on none: when it raises, here or
        anywhere, the data are as they were, so that the call can be made again after a :meth:`shrink`. Takes memory for a
        second vector, one copy of it, and an :meth:`agree`."""
        here = memory(data, target=True, what="all_reduce_preserving: the data")
        chosen = operation(op, here.element)
        mine = self._used()
        interrupt.apart(lambda: _all_reduce_preserving(mine, here, chosen), mine)

    def invitation(self) -> str:
        """What a process needs to :meth:`enlist` in this job while it runs. Any rank's will do, for as long as one of the ranks
        lives that are members now. Who reads it can join the job: pass it like a password. A job of one rank
        listens nowhere before its first invitation, which opens it on ``iface`` or the first interface that leads somewhere."""
        text = ctypes.create_string_buffer(INVITATION_TEXT_BYTES)
        check(lib.roundel_invitation(self._used(), text, len(text)))
        return text.value.decode()

    def grow(self: C) -> Optional[C]:
        """Admits everybody who waits in :meth:`enlist`: the new communicator has this one's ranks, in their order, and then the
        newcomers. ``None`` where nobody waits, after some 100 us. This communicator stays what it is and can be used on.

        All ranks make this call, between two steps of their work. Blocks until all have, at most ``init_timeout_ms``. An
        error, the same on all ranks, when one of them is gone (:meth:`shrink` first) or a newcomer dies meanwhile (grow
        again)."""
        mine = self._used()

        def grown() -> Optional[C]:
            handle = c_void_p()
            check(lib.roundel_grow(mine, handle))
            return type(self)(handle) if handle.value else None

        return interrupt.apart(grown, mine)


def _all_reduce_preserving(comm: Any, data: Memory, op: Union[ReduceOp, PremulSum, int]) -> None:
    if isinstance(op, PremulSum):
        with Made(op, data.element.dtype) as made:
            return _all_reduce_preserving(comm, data, made)
    count = data.count * data.element.lanes
    check(lib.roundel_all_reduce_preserving(data.address, count, data.element.dtype, op, comm))
