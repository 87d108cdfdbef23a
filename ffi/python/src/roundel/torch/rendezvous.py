"""How the ranks of a process group meet: through the group's store and nothing else."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

from ..communicator import Communicator, UniqueId

_KEY = "roundel/unique_id"


def join(store: Any, rank: int, world: int, timeout: timedelta) -> Communicator:
    """The communicator of a group of ``world`` ranks that share ``store``. Blocks until all are there, at most ``timeout``."""
    if rank == 0:
        id = UniqueId()
        if world > 1:
            store.set(_KEY, id.hex())
    else:
        store.wait([_KEY], timeout)
        id = UniqueId(bytes.fromhex(store.get(_KEY).decode()))
    limit_ms = milliseconds(timeout)
    return Communicator.init(id, rank, world, timeout_ms=limit_ms, init_timeout_ms=limit_ms)


def milliseconds(timeout: timedelta) -> int:
    return max(1, math.ceil(timeout.total_seconds() * 1000))
