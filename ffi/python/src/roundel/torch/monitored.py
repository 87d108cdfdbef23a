"""``monitored_barrier``: a barrier that says who did not come. It goes through the store, so that ranks that are late or stuck
in a collective are told of without harm to the communicator."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, List

import torch.distributed as dist


def monitored_barrier(store: Any, number: int, rank: int, world: int, timeout: timedelta, wait_all_ranks: bool) -> None:
    """The ``number``-th of a group."""
    here, verdict = f"roundel/barrier/{number}/{{}}".format, f"roundel/barrier/{number}/verdict"
    if world == 1:
        return
    if rank != 0:
        store.set(here(rank), "1")
        try:
            store.wait([verdict], timeout)
            failure = store.get(verdict).decode()
        except Exception as error:
            failure = f"waiting for rank 0: {error}"
        if failure:
            raise dist.DistBackendError(
                f"Rank {rank} successfully reached monitoredBarrier, but received errors while waiting for send/recv from rank 0. "
                f"Please check rank 0 logs for faulty rank.\n Original exception: \n{failure}"
            )
        return
    missing = _missing(store, [here(r) for r in range(1, world)], timeout, wait_all_ranks)
    failure = ""
    if missing:
        ranks = ", ".join(str(rank) for rank in missing)
        many = "s" if len(missing) > 1 else ""
        failure = f"[Rank 0]: Rank{many} {ranks} failed to pass monitoredBarrier in {int(timeout.total_seconds() * 1000)} ms"
    store.set(verdict, failure)
    if failure:
        raise dist.DistBackendError(failure)
    if number > 0:
        # Everybody has passed the barrier before this one, and so has read its verdict.
        _forget(store, number - 1, world)


def _missing(store: Any, keys: List[str], timeout: timedelta, all_of_them: bool) -> List[int]:
    """The ranks whose keys did not come in time: the first of them, or all."""
    deadline = time.monotonic() + timeout.total_seconds()
    missing = []
    for rank, key in enumerate(keys, start=1):
        left = timedelta(seconds=max(0.001, deadline - time.monotonic()))
        try:
            store.wait([key], left)
        except Exception:
            missing.append(rank)
            if not all_of_them:
                break
    return missing


def _forget(store: Any, number: int, world: int) -> None:
    try:
        for rank in range(1, world):
            store.delete_key(f"roundel/barrier/{number}/{rank}")
        store.delete_key(f"roundel/barrier/{number}/verdict")
    except Exception:  # a store that cannot delete keeps a few bytes
        pass
