"""Roundel: collective communication between threads, processes and hosts.

::

    import numpy as np, roundel

    with roundel.Communicator.from_env() as comm:      # torchrun, mpirun, srun, or a world of one
        x = np.full(1000, comm.rank, np.float32)
        comm.all_reduce(x)                             # in place; a sum unless told otherwise
        work = comm.start.all_reduce(x, op="max")      # goes on by itself
        work.wait()

Calls take anything that holds dense elements in memory of the host (NumPy arrays, torch tensors, DLPack, the buffer protocol; see
:mod:`roundel.memory`) and copy nothing. :mod:`roundel.torch` is a backend for ``torch.distributed``.
"""

from . import elastic
from .calls import Calls
from .communicator import Communicator, Group, UniqueId
from .dtypes import DType, PremulSum, ReduceOp, premul_sum
from .errors import (
    Aborted,
    Corrupted,
    InitializationError,
    InvalidArgument,
    Mismatch,
    PeerLost,
    RoundelError,
    SystemFailure,
    TimedOut,
    Unsupported,
)
from .library import library_version
from .mapped import Mapped
from .memory import Memory
from .work import Work

__version__ = library_version()

__all__ = [
    "Aborted",
    "Calls",
    "Communicator",
    "Corrupted",
    "DType",
    "Group",
    "InitializationError",
    "InvalidArgument",
    "Mapped",
    "Memory",
    "Mismatch",
    "PeerLost",
    "PremulSum",
    "ReduceOp",
    "RoundelError",
    "SystemFailure",
    "TimedOut",
    "UniqueId",
    "Unsupported",
    "Work",
    "elastic",
    "library_version",
    "premul_sum",
]
