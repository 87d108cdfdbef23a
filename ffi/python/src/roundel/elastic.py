"""Work that goes on while ranks die and join: :func:`run` repeats a step on whoever is there.

::

    everybody has the newest state
      step --ok--> apply, next step                      a step that fails has changed nothing:
        |                                                what it computes is applied only when it is whole
      a rank is gone --> shrink --> the newest state --> the same step again, without the dead
      every so often --> grow   --> the newest state --> the next step, with the newcomers

No step is lost and none is counted twice: some ranks may have finished the step in which another died, and then they are the ones
whose state is the newest. Deaths are noticed and survived on every rank alike; the loop and its promises are those of
``roundel::elastic`` in Rust, but all ranks of one job use the same of the two.
"""

from __future__ import annotations

import abc
import hashlib
from array import array
from typing import Generic, Optional, Tuple, TypeVar

from .communicator import Communicator
from .errors import Corrupted, InvalidArgument, PeerLost
from .library import integer

__all__ = ["Stepwise", "catch_up", "run"]

U = TypeVar("U")


class Stepwise(abc.ABC, Generic[U]):
    """Work in steps, each of which needs all ranks."""

    @abc.abstractmethod
    def steps_done(self) -> int:
        """How many steps have been applied: the same on all ranks that are abreast."""

    @abc.abstractmethod
    def is_done(self) -> bool:
        """Whether there is nothing more to do; a function of the state, so that all ranks see it at the same step."""

    @abc.abstractmethod
    def step(self, comm: Communicator) -> U:
        """Computes one step together with the other ranks. It does not change the state: an error leaves it as it was."""

    @abc.abstractmethod
    def apply(self, update: U) -> None:
        """Applies what a step has computed, and counts it."""

    @abc.abstractmethod
    def save(self) -> bytes:
        """The state, for ranks that are behind or new: the same bytes for the same state."""

    @abc.abstractmethod
    def load(self, state: bytes) -> None:
        """Becomes the state that :meth:`save` gave on another rank."""


def run(work: Stepwise[U], comm: Communicator, *, grow_every: int = 1, min_ranks: int = 1) -> Communicator:
    """Steps until the work is done; gives the communicator of those who are there then. All ranks call it, those that began the
    job and newcomers right after :meth:`Communicator.enlist`; whoever is behind gets the newest state first. ``comm`` is closed
    when another one takes its place, and whenever an exception leaves the loop.

    Every ``grow_every`` steps (0: never; the same on all ranks) it looks for newcomers. Deaths are survived; with fewer than
    ``min_ranks`` the work ends with the :class:`PeerLost` that made them so few. Any other exception ends it on this rank,
    and the others go on without.

    ::

        class Training(roundel.elastic.Stepwise): ...

        with roundel.elastic.run(Training(), roundel.Communicator.from_env()) as comm:
            print("done, with", comm.world, "ranks")
    """
    if integer("grow_every", grow_every) < 0 or integer("min_ranks", min_ranks) < 1:
        raise InvalidArgument(f"grow_every={grow_every}, min_ranks={min_ranks}; at least 0 and 1")
    try:
        is_abreast = False
        while True:
            try:
                is_done, grown = _advance(work, comm, grow_every, is_abreast)
            except PeerLost as error:
                rest = comm.shrink()
                comm, before = rest, comm
                before.close()
                if comm.world < min_ranks:
                    raise error
                is_abreast = False
                continue
            if is_done:
                return comm
            if grown is not None:
                comm, before = grown, comm
                before.close()
            is_abreast = grown is None
    except BaseException:
        comm.close()
        raise


def _advance(
    work: Stepwise[U], comm: Communicator, grow_every: int, is_abreast: bool
) -> Tuple[bool, Optional[Communicator]]:
    """One step, or the communicator with which to go on instead; and whether all is done."""
    if not is_abreast:
        catch_up(work, comm)
    if work.is_done():
        # Nobody leaves while another may still need the newest state.
        comm.barrier()
        return True, None
    if grow_every > 0 and work.steps_done() % grow_every == 0:
        grown = comm.grow()
        if grown is not None:
            return False, grown
    work.apply(work.step(comm))
    return False, None


def catch_up(work: Stepwise[U], comm: Communicator) -> None:
    """All ranks come to the state of the one that is furthest, the lowest of several. Moves 16 bytes a rank where all are
    abreast, and the state once over the network where not. Then all compare a digest of what they have: :class:`Corrupted`
    where states differ that count the same steps."""
    state = work.save()
    mine = array("Q", [work.steps_done(), len(state)])
    everybody = array("Q", bytes(16 * comm.world))
    comm.all_gather(mine, everybody)
    steps, lengths = list(everybody[::2]), list(everybody[1::2])
    newest = max(steps)
    source = steps.index(newest)
    if min(steps) < newest:
        passing = bytearray(state if comm.rank == source else lengths[source])
        comm.broadcast(passing, source)
        # Whoever is not behind keeps its own; what comes is only for the others.
        if steps[comm.rank] < newest:
            state = bytes(passing)
            work.load(state)
    _agree_on(state, newest, comm)


def _agree_on(state: bytes, steps: int, comm: Communicator) -> None:
    """All ranks have the same bytes."""
    digest = hashlib.blake2b(state, digest_size=8, salt=steps.to_bytes(16, "little")).digest()
    digests = array("Q", bytes(8 * comm.world))
    comm.all_gather(array("Q", digest), digests)
    differing = tuple(rank for rank in range(comm.world) if digests[rank] != digests[0])
    if differing:
        names = ", ".join(map(str, differing))
        raise Corrupted(
            f"rank {names} hold another state than rank 0 after {steps} steps; suspect a step that depends on more than the "
            "state, memory, network or driver of that host",
            ranks=differing,
            rank=comm.rank,
        )
