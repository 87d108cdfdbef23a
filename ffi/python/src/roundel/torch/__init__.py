"""Roundel as a backend of ``torch.distributed``.

::

    import torch.distributed as dist
    dist.init_process_group("roundel")       # before torch 2.14: `import roundel.torch` first

The backend serves tensors in host memory, device ``cpu``. For ``cuda`` it is not registered: the library has no device buffers yet.
Everything that ``torch.distributed`` offers for CPU tensors is there: collectives in all their forms, messages, subgroups, objects,
DDP, FSDP, functional collectives and DTensor. Some of it deserves a word:

- Reductions of ``bool`` mean any (sum, max) and all (product, min). Complex numbers can be summed and averaged. ``int16`` and other
  types that the library does not know can be moved, not reduced.
- Messages of a pair of ranks are received in the order in which they were sent; a tag is checked, it does not reorder.
- ``monitored_barrier`` goes through the store and leaves the group intact.
- Errors are ``torch.distributed.DistBackendError`` with ``ranks``, ``operation`` and ``sequence``, on every rank. The group is finished
  then. Calls that are refused before anything was sent raise :class:`roundel.InvalidArgument` on the rank that made them.
- A group's timeout is the one it was made with, or what ``torch.distributed.set_timeout`` lowers it to.
- ``ROUNDEL_*`` variables apply (``ROUNDEL_REPRODUCIBLE``, ``ROUNDEL_IFACE``, ...), but for the timeouts, which are torch's.
  ``ROUNDEL_IFACE=eth0,eth1`` makes links between hosts go over both interfaces.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.distributed as dist

from ..errors import InvalidArgument
from .backend import attach
from .errors import translated
from .process_group import ProcessGroup
from .rendezvous import join

__all__ = ["MappedAllReduce", "ProcessGroup", "empty_mapped", "register"]

BACKEND = "roundel"
DEVICES = ["cpu"]


def register() -> None:
    """Makes the backend known to ``torch.distributed``. Importing this module does it; twice is fine."""
    if not hasattr(dist.Backend, BACKEND.upper()):
        dist.Backend.register_backend(BACKEND, _create, extended_api=True, devices=DEVICES)


def _create(options: Any, backend_options: Any) -> ProcessGroup:
    with translated():
        comm = join(options.store, options.group_rank, options.group_size, options.timeout)
    group = ProcessGroup(comm, options.store, options.timeout)
    attach(group)
    return group


def empty_mapped(
    *shape: Any, dtype: Optional[torch.dtype] = None, group: Optional[dist.ProcessGroup] = None
) -> torch.Tensor:
    """A tensor of zeros in memory that the other ranks of the host can reach, so that calls of ``group`` (by default the world's)
    on it need no copies. Not collective: each rank allocates for itself, and calls find out whether all of them did."""
    if len(shape) == 1 and not isinstance(shape[0], int):
        (shape,) = shape
    group = dist.group.WORLD if group is None else group
    if not isinstance(group, ProcessGroup):
        raise InvalidArgument(
            "empty_mapped: the group is not one of backend 'roundel'; is torch.distributed initialised with it?"
        )
    return group.empty_mapped(shape, dtype or torch.get_default_dtype())


register()

from .hooks import MappedAllReduce  # noqa: E402  (it uses what is above)
