"""A ``Backend`` for those who ask a group for one: torch's C++ code, where a group's method is not overridden in Python, and front ends
that look for what a backend offers. Everything goes on to the group."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch._C import _distributed_c10d as c10d

if TYPE_CHECKING:
    from .process_group import ProcessGroup

_METHODS = """
    allreduce allreduce_coalesced broadcast reduce barrier monitored_barrier
    allgather allgather_coalesced _allgather_base all_gather_single all_gather_single_coalesced allgather_into_tensor_coalesced
    reduce_scatter _reduce_scatter_base reduce_scatter_single reduce_scatter_single_coalesced reduce_scatter_tensor_coalesced
    gather gather_single scatter alltoall alltoall_base all_to_all_single send recv recv_anysource recvAnysource
    set_timeout abort shutdown getBackendName _get_sequence_number_for_group _set_sequence_number_for_group
""".split()


class Backend(c10d.Backend):  # type: ignore[misc]
    """The backend of a :class:`~roundel.torch.process_group.ProcessGroup`."""

    def __init__(self, group: ProcessGroup) -> None:
        super().__init__(group.rank(), group.size())
        self._group = weakref.ref(group)

    supports_splitting = False
    supports_coalescing = False

    def supports_tensor_alloc(self, device: Any) -> bool:
        return bool(torch.device(device).type == "cpu")

    def allocate_tensor(self, size: int, *, dtype: torch.dtype, device: Any) -> torch.Tensor:
        """Memory that the other ranks of the host can reach; FSDP2 asks for it when told to
        (``set_allocate_memory_from_process_group_for_comm``)."""
        return self._live().empty_mapped(size, dtype)

    def name(self) -> str:
        return "roundel"

    def _live(self) -> ProcessGroup:
        group = self._group()
        if group is None:
            raise RuntimeError("the process group is gone")
        return group


def _forward(name: str) -> Any:
    def method(self: Backend, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._live(), name)(*args, **kwargs)

    method.__name__ = name
    return method


for _name in _METHODS:
    setattr(Backend, _name, _forward(_name))


def attach(group: ProcessGroup) -> None:
    """Registers a backend with the group, where torch can have backends written in Python (2.14 and newer)."""
    if not hasattr(c10d.Backend, "all_gather_single"):
        return
    backend = Backend(group)
    kind = c10d.ProcessGroup.BackendType.CUSTOM
    group._set_default_backend(kind)
    group._register_backend(torch.device("cpu"), kind, backend)
    # torch's C++ side keeps the C++ half alive; the Python half lives as long as the group does.
    group._python_backend = backend
