"""The process group: what ``torch.distributed`` calls, in terms of the calls of a :class:`~roundel.Communicator`.

It is a subclass of ``ProcessGroup``, so that torch's Python front ends reach it without a detour through C++ and its works keep
all of their methods. On torch 2.14 and newer it also registers a :class:`~roundel.torch.backend.Backend` with itself, for those who
ask a group for the backend of a device.

A call that is not asked to be asynchronous runs on the caller's thread and returns work that has ended: no other thread takes part,
which is what makes small calls fast.
"""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import Any, Callable, List, Optional, Sequence, Union

import torch
import torch.distributed as dist
from torch._C import _distributed_c10d as c10d

from ..calls import Calls
from ..communicator import Communicator
from ..dtypes import PremulSum, ReduceOp
from ..errors import InvalidArgument, RoundelError, TimedOut
from ..mapped import Mapped, shape_of
from ..memory import Memory, torch_element
from .errors import as_dist_error, translated
from .futures import Completer
from .messages import Messages
from .monitored import monitored_barrier
from .sparse import all_reduce_sparse
from .tensors import Finish, counts, per_rank, single, source, sources, target, targets
from .work import Done, Work

Tensors = Sequence[torch.Tensor]
#: A call, on whatever it is to be made.
Step = Callable[[Calls[Any]], Any]
#: What a call may take; ``None`` is the group's own.
Limit = Optional[timedelta]

#: torch's stubs name the type without its members.
_KIND: Any = c10d.ReduceOp.RedOpType
_OPS = {
    _KIND.SUM: ReduceOp.SUM,
    _KIND.AVG: ReduceOp.AVG,
    _KIND.PRODUCT: ReduceOp.PROD,
    _KIND.MIN: ReduceOp.MIN,
    _KIND.MAX: ReduceOp.MAX,
    _KIND.BAND: ReduceOp.BIT_AND,
    _KIND.BOR: ReduceOp.BIT_OR,
    _KIND.BXOR: ReduceOp.BIT_XOR,
}


class ProcessGroup(dist.ProcessGroup):  # type: ignore[misc]
    """A group of ranks whose calls run on Roundel. Made by ``torch.distributed``."""

    def __init__(self, comm: Communicator, store: Any, timeout: timedelta) -> None:
        super().__init__(store, comm.rank, comm.world)
        self._comm = comm
        self._store = store
        #: What the communicator itself enforces, and what calls are to be given, which may be less.
        self._comm_timeout = self._timeout = timeout
        self._lowered_s: Optional[float] = None
        self._messages = Messages(comm, store, lambda: self._timeout.total_seconds())
        self._completer = Completer()
        self._barriers = 0
        self._sequence = 0
        self._coalesced: Optional[List[Work]] = None

    # --- all to all of them ---

    def allreduce(self, tensors: Any, opts: Any = None, timeout: Limit = None) -> Work:
        tensor = single(tensors, "all_reduce")
        if tensor.layout is not torch.strided:
            return self._blocking(lambda: all_reduce_sparse(self._comm, tensor, _operation(opts)), [tensor], [])
        finish: Finish = []
        here, op = target(tensor, finish), _operation(opts)
        return self._run(opts, lambda calls: calls.all_reduce(here, None, op), [tensor], finish, timeout)

    def allreduce_coalesced(self, tensors: Tensors, opts: Any = None) -> Work:
        finish: Finish = []
        op = _operation(opts)

        def step(here: Memory) -> Step:
            return lambda calls: calls.all_reduce(here, None, op)

        steps = [step(target(tensor, finish)) for tensor in tensors]
        return self._run_all(opts, steps, list(tensors), finish)

    def broadcast(self, tensors: Any, opts: Any = None, timeout: Limit = None) -> Work:
        tensor, root = single(tensors, "broadcast"), _root(opts)
        finish: Finish = []
        here = source(tensor) if root == self._comm.rank else target(tensor, finish)
        return self._run(opts, lambda calls: calls.broadcast(here, root), [tensor], finish, timeout)

    def reduce(self, tensors: Any, opts: Any = None, op: Any = None, timeout: Limit = None) -> Work:
        tensor, root = single(tensors, "reduce"), _root(opts)
        finish: Finish = []
        here = target(tensor, finish) if root == self._comm.rank else source(tensor)
        how = _operation(opts if op is None else op)
        return self._run(opts, lambda calls: calls.reduce(here, None, root, how), [tensor], finish, timeout)

    def barrier(self, opts: Any = None, timeout: Limit = None) -> Work:
        # Of all options only a barrier's may have a timeout that somebody has set.
        timeout = opts if isinstance(opts, timedelta) else getattr(opts, "timeout", timeout)
        return self._run(opts, lambda calls: calls.barrier(), [], [], timeout)

    # --- blocks, one per rank, in one tensor ---

    def _allgather_base(self, output: torch.Tensor, input: torch.Tensor, opts: Any = None) -> Work:
        finish: Finish = []
        given, taken = source(input), target(output, finish)
        return self._run(opts, lambda calls: calls.all_gather(given, taken), [output], finish)

    def _reduce_scatter_base(self, output: torch.Tensor, input: torch.Tensor, opts: Any = None) -> Work:
        finish: Finish = []
        given, taken, op = source(input), target(output, finish), _operation(opts)
        return self._run(opts, lambda calls: calls.reduce_scatter(given, taken, op), [output], finish)

    def gather_single(self, output: torch.Tensor, input: torch.Tensor, opts: Any = None) -> Work:
        finish: Finish = []
        root, given = _root(opts), source(input)
        taken = target(output, finish) if root == self._comm.rank else None
        return self._run(opts, lambda calls: calls.gather(given, taken, root), [output], finish)

    def all_to_all_single(
        self,
        output: torch.Tensor,
        input: torch.Tensor,
        output_split_sizes: Sequence[int] = (),
        input_split_sizes: Sequence[int] = (),
        opts: Any = None,
        timeout: Limit = None,
    ) -> Work:
        finish: Finish = []
        given, taken = source(input), target(output, finish)
        if not output_split_sizes and not input_split_sizes:
            return self._run(opts, lambda calls: calls.all_to_all(given, taken), [output], finish, timeout)
        send = self._elements(input, input_split_sizes, "input")
        recv = self._elements(output, output_split_sizes, "output")
        return self._run(opts, lambda calls: calls.all_to_all(given, taken, send, recv), [output], finish, timeout)

    def _elements(self, tensor: torch.Tensor, splits: Sequence[int], which: str) -> List[int]:
        """Splits along the first dimension, in elements; none means equal ones."""
        world = self._comm.world
        rows = tensor.shape[0] if tensor.dim() else 1
        if not splits:
            if rows % world:
                raise InvalidArgument(f"all_to_all: {rows} rows of the {which} do not make {world} equal splits")
            splits = [rows // world] * world
        if len(splits) != world or sum(splits) != rows:
            raise InvalidArgument(
                f"all_to_all: {which} splits {list(splits)} for {world} ranks and a first dimension of {rows}; one split per rank, "
                "which add up to the dimension"
            )
        per_row = tensor.numel() // rows if rows else 0
        return [split * per_row for split in splits]

    def all_gather_single_coalesced(self, outputs: Tensors, inputs: Tensors, opts: Any = None) -> Work:
        finish: Finish = []

        def step(given: Memory, taken: Memory) -> Step:
            return lambda calls: calls.all_gather(given, taken)

        steps = [step(source(given), target(taken, finish)) for taken, given in zip(outputs, inputs)]
        return self._run_all(opts, steps, list(outputs), finish)

    def reduce_scatter_single_coalesced(self, outputs: Tensors, inputs: Tensors, opts: Any = None) -> Work:
        finish: Finish = []
        op = _operation(opts)

        def step(given: Memory, taken: Memory) -> Step:
            return lambda calls: calls.reduce_scatter(given, taken, op)

        steps = [step(source(given), target(taken, finish)) for taken, given in zip(outputs, inputs)]
        return self._run_all(opts, steps, list(outputs), finish)

    # --- blocks as lists of tensors ---

    def allgather(self, outputs: Any, inputs: Any, opts: Any = None, timeout: Limit = None) -> Work:
        finish: Finish = []
        outputs, given = per_rank(_list(outputs), self._comm.world, "all_gather"), single(inputs, "all_gather")
        return self._run(opts, self._gathering(outputs, given, finish), list(outputs), finish, timeout)

    def allgather_coalesced(self, outputs: Sequence[Tensors], inputs: Tensors, opts: Any = None) -> Work:
        # One list of tensors for every rank.
        finish: Finish = []
        lists = [
            per_rank([per_input[i] for per_input in outputs], self._comm.world, "all_gather")
            for i in range(len(inputs))
        ]
        steps = [self._gathering(list(into), given, finish) for into, given in zip(lists, inputs)]
        return self._run_all(opts, steps, [tensor for into in outputs for tensor in into], finish)

    def _gathering(self, outputs: Tensors, input: torch.Tensor, finish: Finish) -> Step:
        given, taken, sizes = source(input), targets(outputs, finish), counts(outputs)
        if len(set(sizes)) == 1:
            return lambda calls: calls.all_gather(given, taken)
        return lambda calls: calls.all_gather(given, taken, sizes)

    def reduce_scatter(self, outputs: Any, inputs: Any, opts: Any = None, timeout: Limit = None) -> Work:
        finish: Finish = []
        output, inputs = single(outputs, "reduce_scatter"), per_rank(_list(inputs), self._comm.world, "reduce_scatter")
        given, taken, sizes, op = sources(inputs), target(output, finish), counts(inputs), _operation(opts)
        even = len(set(sizes)) == 1
        return self._run(
            opts,
            lambda calls: calls.reduce_scatter(given, taken, op, None if even else sizes),
            [output],
            finish,
            timeout,
        )

    def gather(self, outputs: Any, inputs: Any, opts: Any = None, root: Any = None, timeout: Limit = None) -> Work:
        finish: Finish = []
        root, given, taken, into = _root(opts if root is None else root), source(single(inputs, "gather")), None, []
        if root == self._comm.rank:
            into = list(per_rank(_list(outputs), self._comm.world, "gather"))
            taken = targets(into, finish)
        return self._run(opts, lambda calls: calls.gather(given, taken, root), into, finish, timeout)

    def scatter(self, outputs: Any, inputs: Any, opts: Any = None, root: Any = None, timeout: Limit = None) -> Work:
        finish: Finish = []
        root, output, given = _root(opts if root is None else root), single(outputs, "scatter"), None
        if root == self._comm.rank:
            given = sources(per_rank(_list(inputs), self._comm.world, "scatter"))
        taken = target(output, finish)
        return self._run(opts, lambda calls: calls.scatter(given, taken, root), [output], finish, timeout)

    def alltoall(self, outputs: Tensors, inputs: Tensors, opts: Any = None, timeout: Limit = None) -> Work:
        finish: Finish = []
        outputs, inputs = (per_rank(list(x), self._comm.world, "all_to_all") for x in (outputs, inputs))
        given, taken, send, recv = sources(inputs), targets(outputs, finish), counts(inputs), counts(outputs)
        return self._run(opts, lambda calls: calls.all_to_all(given, taken, send, recv), list(outputs), finish, timeout)

    # --- messages ---

    def send(self, tensors: Tensors, dst: int, tag: int = 0) -> Work:
        return self._note(self._messages.send(single(tensors, "send"), dst, tag))

    def recv(self, tensors: Tensors, src: int, tag: int = 0) -> Work:
        return self._note(self._messages.recv(single(tensors, "recv"), src, tag))

    def recv_anysource(self, tensors: Tensors, tag: int = 0) -> Work:
        return self._note(self._messages.recv_from_anybody(single(tensors, "recv"), tag))

    # --- several calls as one work ---

    def _start_coalescing(self, device: Any = None) -> None:
        if self._coalesced is not None:
            raise InvalidArgument("coalescing has begun before")
        self._coalesced = []

    def _end_coalescing(self, device: Any = None) -> Work:
        works, self._coalesced = self._coalesced, None
        if works is None:
            raise InvalidArgument("coalescing has not begun")
        return Several(works, self._completer.add)

    # --- the group itself ---

    def monitored_barrier(self, timeout: Limit = None, wait_all_ranks: bool = False) -> None:
        number, self._barriers = self._barriers, self._barriers + 1
        limit = self._timeout if timeout is None else timeout
        monitored_barrier(self._store, number, self._comm.rank, self._comm.world, limit, wait_all_ranks)

    def set_timeout(self, timeout: timedelta) -> None:
        """Calls from now on get at most ``timeout``. More than the group was made with is not possible, and warned of."""
        if timeout > self._comm_timeout:
            warnings.warn(
                f"roundel keeps to the timeout the group was made with, {self._comm_timeout}, as a call's upper limit",
                stacklevel=2,
            )
        self._timeout = min(timeout, self._comm_timeout)
        self._lowered_s = self._timeout.total_seconds() if timeout < self._comm_timeout else None

    _set_default_timeout = set_timeout

    def abort(self) -> None:
        """Ends the group on all ranks: calls in flight fail everywhere."""
        try:
            self._comm.abort(f"rank {self._comm.rank} aborted the process group")
        except RoundelError:
            return  # it is closed
        self.shutdown()

    def shutdown(self) -> None:
        """Waits for calls in flight, and leaves."""
        self._messages.close()
        self._comm.close()

    def getBackendName(self) -> str:
        return "roundel"

    _get_backend_name = name = getBackendName

    def getSize(self) -> int:
        return self._comm.world

    def getRank(self) -> int:
        return self._comm.rank

    def _set_sequence_number_for_group(self) -> None:
        self._sequence = 0

    def _get_sequence_number_for_group(self) -> int:
        return self._sequence

    def empty_mapped(self, shape: Any, dtype: torch.dtype) -> torch.Tensor:
        """See :func:`roundel.torch.empty_mapped`."""
        extents, count = shape_of(shape)
        if count == 0:
            return torch.empty(extents, dtype=dtype)
        with translated():
            memory = Mapped(self._comm._used(), count, torch_element(dtype))
        return torch.frombuffer(memory.bytes(), dtype=dtype, count=count).view(extents)

    # --- how calls run ---

    def _run(
        self,
        opts: Any,
        step: Step,
        result: List[torch.Tensor],
        finish: Finish,
        timeout: Limit = None,
    ) -> Work:
        self._sequence += 1
        limit_s = self._lowered_s if timeout is None else self._limit_s(timeout)
        if self._coalesced is None and limit_s is None and not getattr(opts, "asyncOp", True):
            return self._blocking(lambda: step(self._comm), result, finish)
        return self._started([step], result, finish, limit_s)

    def _run_all(
        self,
        opts: Any,
        steps: List[Step],
        result: List[torch.Tensor],
        finish: Finish,
        timeout: Limit = None,
    ) -> Work:
        if len(steps) == 1:
            return self._run(opts, steps[0], result, finish, timeout)
        self._sequence += len(steps)
        return self._started(steps, result, finish, self._limit_s(timeout))

    def _blocking(self, run: Callable[[], Any], result: List[torch.Tensor], finish: Finish) -> Work:
        try:
            run()
        except RoundelError as error:
            raise as_dist_error(error) from error
        for copy_back in finish:
            copy_back()
        return Done(result)

    def _started(self, steps: List[Step], result: List[torch.Tensor], finish: Finish, limit_s: Optional[float]) -> Work:
        with translated():
            flights = [step(self._comm.start) for step in steps]
        return self._note(Work(flights, result, finish, self._completer.add, self._give_up, limit_s))

    def _note(self, work: Work) -> Work:
        if self._coalesced is not None:
            self._coalesced.append(work)
        return work

    def _limit_s(self, timeout: Limit) -> Optional[float]:
        """What a call may take, where that is less than the communicator allows by itself."""
        if timeout is None or timeout <= timedelta(0):
            return self._lowered_s
        limit = min(timeout, self._timeout)
        return limit.total_seconds() if limit < self._comm_timeout else None

    def _give_up(self) -> RoundelError:
        error = TimedOut(
            f"rank {self._comm.rank} waited longer than this call's own timeout, and ended the process group"
        )
        try:
            self._comm.abort(str(error))
        except RoundelError:
            pass
        return error

    # The same under the names that torch used before, or uses in C++.
    all_gather_single = _allgather_base
    reduce_scatter_single = _reduce_scatter_base
    gather_into_tensor = gather_single
    alltoall_base = all_to_all_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    recvAnysource = recv_anysource


class Several(Work):
    """Works that end together."""

    def __init__(self, works: List[Work], defer: Any) -> None:
        super().__init__((), [tensor for work in works for tensor in work.result()], [], defer)
        self._works = works

    def _ended(self) -> bool:
        return all(work.is_completed() for work in self._works)

    def _block(self, limit_s: Optional[float]) -> bool:
        # Every part keeps the time for itself: they are in flight together.
        if not all(work._block(limit_s) for work in self._works):
            return False
        for work in self._works:
            if work._error is not None:
                self._fail(work._error)
        return super()._block(0)


def _operation(opts: Any) -> Union[ReduceOp, PremulSum]:
    op = getattr(opts, "reduceOp", opts)
    if op is None:
        return ReduceOp.SUM
    kind = getattr(op, "op", op)
    known = _OPS.get(kind)
    if known is not None:
        return known
    if kind == _KIND.PREMUL_SUM and hasattr(op, "factor"):
        return PremulSum(float(op.factor))
    raise InvalidArgument(f"reductions: {kind} is not one that roundel has")


def _root(opts: Any) -> int:
    return opts if isinstance(opts, int) else getattr(opts, "rootRank", 0)


def _list(of_lists: Any) -> Tensors:
    """The one list of tensors in a list of lists, which C10D has for several devices per rank."""
    if of_lists and isinstance(of_lists[0], (list, tuple)):
        if len(of_lists) != 1:
            raise InvalidArgument(f"{len(of_lists)} lists of tensors; a rank has one device, so it gives one")
        return of_lists[0]  # type: ignore[no-any-return]
    return of_lists  # type: ignore[no-any-return]
