"""Every call that a communicator offers, written once. Who inherits decides what becomes of it:

- :class:`~roundel.Communicator` runs it and returns when this rank's part is done,
- ``communicator.start`` starts it and gives a :class:`~roundel.Work`,
- a :class:`~roundel.Group` collects it.

Counts follow from the buffers. Where a collective has blocks, one per rank, the buffer that holds one block has the block's
length and the other one ``world`` times as many; with ``counts`` blocks have lengths of their own. Both buffers may be the
same memory where they hold the same elements: for ``all_gather`` the input is then this rank's block of the output, for
``reduce_scatter`` the output is this rank's block of the input (``x[rank * n:(rank + 1) * n]``). Any other overlap is refused.
"""

from __future__ import annotations

import abc
from typing import Any, Generic, List, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union

from .dtypes import Element, PremulSum, ReduceOp, reduce_op
from .errors import InvalidArgument
from .library import integer
from .memory import Memory, memory

__all__ = ["Calls"]

R = TypeVar("R")
Op = Union[ReduceOp, PremulSum, str]


class Request(NamedTuple):
    """One call with its lengths checked: the function's name in ``roundel.h`` and its arguments after the communicator.
    ``None`` among the arguments is a NULL pointer; :class:`PremulSum` becomes an operation of the library on the way."""

    function: str
    arguments: Tuple[Any, ...]
    #: What the arguments point to.
    keep: Tuple[Any, ...]


class Calls(abc.ABC, Generic[R]):
    """The calls."""

    def __init__(self, rank: int, world: int) -> None:
        self._rank, self._world = rank, world

    @property
    def rank(self) -> int:
        """This rank's number."""
        return self._rank

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return self._world

    @abc.abstractmethod
    def _issue(self, request: Request) -> R: ...

    def all_reduce(self, input: Any, output: Any = None, op: Op = ReduceOp.SUM) -> R:
        """Everyone's ``output`` becomes the reduction of everyone's ``input``; without an ``output``, ``input`` does."""
        given, taken = self._pair("all_reduce", input, output)
        same_length("all_reduce", given, taken)
        count = given.count * given.element.lanes
        arguments = (given.address, taken.address, count, given.element.dtype, operation(op, given.element))
        return self._issue(Request("roundel_all_reduce", arguments, (given, taken)))

    def reduce(self, input: Any, output: Any = None, root: int = 0, op: Op = ReduceOp.SUM) -> R:
        """The root's ``output`` (or ``input``, without one) becomes the reduction of everyone's ``input``; elsewhere
        ``output`` is ignored."""
        root = self._rank_of("root", root)
        if root == self.rank:
            given, taken = self._pair("reduce", input, output)
            same_length("reduce", given, taken)
        else:
            given = memory(input, target=False, what="reduce: the input")
            taken = _NOWHERE
        count = given.count * given.element.lanes
        arguments = (given.address, taken.address, count, given.element.dtype, operation(op, given.element), root)
        return self._issue(Request("roundel_reduce", arguments, (given, taken)))

    def broadcast(self, data: Any, root: int = 0) -> R:
        """Everyone's ``data`` becomes the root's."""
        root = self._rank_of("root", root)
        here = memory(data, target=self.rank != root, what="broadcast: the data")
        arguments = (here.address, here.address, here.count * here.element.lanes, here.element.dtype, root)
        return self._issue(Request("roundel_broadcast", arguments, (here,)))

    def reduce_scatter(
        self, input: Any, output: Any, op: Op = ReduceOp.SUM, counts: Optional[Sequence[int]] = None
    ) -> R:
        """Rank r's ``output`` becomes block r of the reduction. With ``counts`` (the same on all ranks) block r has
        ``counts[r]`` elements, else all are as long as the output."""
        given, taken = self._pair("reduce_scatter", input, output)
        op = operation(op, given.element)
        if counts is None:
            self._one_of_world("reduce_scatter", "output", taken, "input", given)
            count = taken.count * taken.element.lanes
            arguments: Tuple[Any, ...] = (given.address, taken.address, count, given.element.dtype, op)
            return self._issue(Request("roundel_reduce_scatter", arguments, (given, taken)))
        mine, lanes = self._counts("reduce_scatter", "counts", counts, given)
        exact("reduce_scatter", "the output", taken, mine)
        arguments = (given.address, taken.address, lanes, given.element.dtype, op)
        return self._issue(Request("roundel_reduce_scatter_v", arguments, (given, taken, lanes)))

    def all_gather(self, input: Any, output: Any, counts: Optional[Sequence[int]] = None) -> R:
        """Everyone's ``output`` becomes all ranks' ``input``, in the order of ranks. With ``counts`` (the same on all
        ranks) rank r gives ``counts[r]`` elements, else all give equally many."""
        given, taken = self._pair("all_gather", input, output)
        if counts is None:
            self._one_of_world("all_gather", "input", given, "output", taken)
            count = given.count * given.element.lanes
            arguments: Tuple[Any, ...] = (given.address, taken.address, count, given.element.dtype)
            return self._issue(Request("roundel_all_gather", arguments, (given, taken)))
        mine, lanes = self._counts("all_gather", "counts", counts, taken)
        exact("all_gather", "the input", given, mine)
        arguments = (given.address, taken.address, lanes, given.element.dtype)
        return self._issue(Request("roundel_all_gather_v", arguments, (given, taken, lanes)))

    def gather(self, input: Any, output: Any = None, root: int = 0) -> R:
        """The root's ``output`` becomes all ranks' ``input``, in the order of ranks; elsewhere ``output`` is ignored."""
        return self._blocks_at_root("gather", root, block=input, blocks=output)

    def scatter(self, input: Any, output: Any, root: int = 0) -> R:
        """Rank r's ``output`` becomes block r of the root's ``input``; elsewhere ``input`` is ignored and may be ``None``."""
        return self._blocks_at_root("scatter", root, block=output, blocks=input)

    def all_to_all(
        self,
        input: Any,
        output: Any = None,
        send_counts: Optional[Sequence[int]] = None,
        recv_counts: Optional[Sequence[int]] = None,
    ) -> R:
        """Block j of rank i's ``input`` becomes block i of rank j's ``output`` (or ``input``, without one). With counts,
        ``send_counts[j]`` elements go to rank j and ``recv_counts[j]`` come from it; what one rank sends the other must
        expect."""
        given, taken = self._pair("all_to_all", input, output)
        if (send_counts is None) != (recv_counts is None):
            raise InvalidArgument("all_to_all takes send_counts and recv_counts together, or neither")
        if send_counts is None or recv_counts is None:
            same_length("all_to_all", given, taken)
            if given.count % self.world:
                raise InvalidArgument(f"all_to_all: {given.count} elements do not make {self.world} equal blocks")
            count = given.count // self.world * given.element.lanes
            arguments: Tuple[Any, ...] = (given.address, taken.address, count, given.element.dtype)
            return self._issue(Request("roundel_all_to_all", arguments, (given, taken)))
        _, sent = self._counts("all_to_all", "send_counts", send_counts, given)
        _, expected = self._counts("all_to_all", "recv_counts", recv_counts, taken)
        arguments = (given.address, sent, taken.address, expected, given.element.dtype)
        return self._issue(Request("roundel_all_to_all_v", arguments, (given, taken, sent, expected)))

    def send(self, data: Any, to: int) -> R:
        """Sends ``data`` to one other rank, which must receive as many elements of the same type. Messages between two
        ranks keep their order, and are independent of collectives. May block until the receiver takes them."""
        to = self._rank_of("to", to)
        given = memory(data, target=False, what="send: the data")
        arguments = (given.address, given.count * given.element.lanes, given.element.dtype, to)
        return self._issue(Request("roundel_send", arguments, (given,)))

    def recv(self, data: Any, source: int) -> R:
        """Receives into ``data`` what rank ``source`` sends."""
        source = self._rank_of("source", source)
        taken = memory(data, target=True, what="recv: the data")
        arguments = (taken.address, taken.count * taken.element.lanes, taken.element.dtype, source)
        return self._issue(Request("roundel_recv", arguments, (taken,)))

    def sendrecv(self, input: Any, to: int, output: Any, source: int) -> R:
        """Sends ``input`` to rank ``to`` and receives into ``output`` what rank ``source`` sends, both at once, so that ranks
        can pass data round a ring without waiting for one another. The two may be the same rank, or this one."""
        to, source = self._rank_of("to", to), self._rank_of("source", source)
        given = memory(input, target=False, what=_WHAT["input"]["sendrecv"])
        taken = memory(output, target=True, what=_WHAT["output"]["sendrecv"])
        same_type("sendrecv", given, taken)
        lanes = given.element.lanes
        sent, expected = (given.address, given.count * lanes, to), (taken.address, taken.count * lanes, source)
        return self._issue(Request("roundel_sendrecv", (*sent, *expected, given.element.dtype), (given, taken)))

    def barrier(self) -> R:
        """Ends when all ranks have called it."""
        return self._issue(Request("roundel_barrier", (), ()))

    def _blocks_at_root(self, call: str, root: int, *, block: Any, blocks: Any) -> R:
        """A gather or scatter: every rank has one block, and the root all of them at the other end."""
        root = self._rank_of("root", root)
        gathers = call == "gather"
        one, whole = ("input", "output") if gathers else ("output", "input")
        mine = memory(block, target=not gathers, what=_WHAT[one][call])
        given, taken = (mine, _NOWHERE) if gathers else (_NOWHERE, mine)
        if root == self.rank:
            theirs = memory(blocks, target=gathers, what=_WHAT[whole][call])
            given, taken = (mine, theirs) if gathers else (theirs, mine)
            same_type(call, given, taken)
            self._one_of_world(call, one, mine, whole, theirs)
        arguments = (given.address, taken.address, mine.count * mine.element.lanes, mine.element.dtype, root)
        return self._issue(Request(f"roundel_{call}", arguments, (given, taken)))

    # --- what arguments must satisfy; the library sees addresses and counts only ---

    def _pair(self, call: str, input: Any, output: Any) -> Tuple[Memory, Memory]:
        if output is None:
            both = memory(input, target=True, what=_WHAT["data"][call])
            return both, both
        given = memory(input, target=False, what=_WHAT["input"][call])
        taken = memory(output, target=True, what=_WHAT["output"][call])
        same_type(call, given, taken)
        return given, taken

    def _rank_of(self, what: str, rank: int) -> int:
        if type(rank) is not int:
            rank = integer(what, rank)
        if not 0 <= rank < self._world:
            raise InvalidArgument(f"{what}={rank} in a world of {self._world}")
        return rank

    def _one_of_world(self, call: str, one: str, block: Memory, whole: str, all_blocks: Memory) -> None:
        if all_blocks.count != block.count * self.world:
            raise InvalidArgument(
                f"{call} on rank {self.rank}: the {one} has {block.count} elements, so the {whole} of {self.world} ranks has "
                f"{block.count * self.world}, not {all_blocks.count}"
            )

    def _counts(self, call: str, what: str, counts: Sequence[int], whole: Memory) -> Tuple[int, Any]:
        """This rank's count, and all of them for C."""
        try:
            numbers = [integer(what, count, 64) for count in counts]
        except TypeError:
            raise InvalidArgument(f"{call}: {what}={counts!r}; it is a list of integers, one for each rank") from None
        if len(numbers) != self.world:
            raise InvalidArgument(f"{call}: {len(numbers)} {what} for {self.world} ranks")
        if min(numbers) < 0:
            raise InvalidArgument(f"{call}: {what}={numbers}: a negative number of elements")
        if sum(numbers) != whole.count:
            raise InvalidArgument(f"{call}: {what} add up to {sum(numbers)}, but the buffer has {whole.count} elements")
        return numbers[self.rank], size_array([number * whole.element.lanes for number in numbers])


def size_array(values: List[int]) -> Any:
    """``size_t[]``."""
    from ctypes import c_size_t

    return (c_size_t * len(values))(*values)


def operation(op: Op, element: Element) -> Union[ReduceOp, PremulSum]:
    """The library's operation for ``op`` on such elements."""
    if isinstance(op, PremulSum):
        if not element.scales:
            raise InvalidArgument(f"a pre-multiplied sum of {element.name}: the type has no products")
        return op
    return element.reduction(reduce_op(op))


def same_type(call: str, given: Memory, taken: Memory) -> None:
    if given.element is not taken.element:
        raise InvalidArgument(f"{call}: the input is of {given.element.name}, the output of {taken.element.name}")


def same_length(call: str, given: Memory, taken: Memory) -> None:
    exact(call, "the output", taken, given.count)


def exact(call: str, what: str, buffer: Memory, count: int) -> None:
    if buffer.count != count:
        raise InvalidArgument(f"{call}: {what} has {buffer.count} elements, expected {count}")


_TWO_BUFFERS = ("all_reduce", "reduce", "reduce_scatter", "all_gather", "gather", "scatter", "all_to_all", "sendrecv")
#: What errors call the buffers. Not put together for every call, because that takes as long as half the rest.
_WHAT = {noun: {call: f"{call}: the {noun}" for call in _TWO_BUFFERS} for noun in ("data", "input", "output")}

#: What a rank that gives or gets nothing passes.
_NOWHERE = Memory(0, 0, "uint8")
