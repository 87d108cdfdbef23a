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
    failure = _failure(store, [here(r) for r in range(1, world)], timeout, wait_all_ranks)
    store.set(verdict, failure)
    if failure:
        raise dist.DistBackendError(failure)
    if number > 0:
        # Everybody has passed the barrier before this one, and so has read its verdict.
        _forget(store, number - 1, world)


def _failure(store: Any, keys: List[str], timeout: timedelta, all_of_them: bool) -> str:
    """What rank 0 has to say when the others have come, or the time is over: nothing, or who is missing, the first or all."""
    limit_s = timeout.total_seconds()
    deadline = time.monotonic() + limit_s
    missing: List[int] = []
    for rank, key in enumerate(keys, start=1):
        left_s = deadline - time.monotonic()
        if left_s <= 0 and not missing and not store.check([key]):
            return f"[Rank 0]: Rank 0 timed out in monitoredBarrier after {limit_s * 1000:.0f} ms, before rank {rank} was heard of"
        try:
            store.wait([key], timedelta(seconds=max(0.001, left_s)))
        except Exception:
            missing.append(rank)
            if not all_of_them:
                break
    if not missing:
        return ""
    ranks = ", ".join(str(rank) for rank in missing)
    return f"[Rank 0]: Rank{'s' if len(missing) > 1 else ''} {ranks} failed to pass monitoredBarrier in {limit_s * 1000:.0f} ms"


def _forget(store: Any, number: int, world: int) -> None:
    try:
        for rank in range(1, world):
            store.delete_key(f"roundel/barrier/{number}/{rank}")
        store.delete_key(f"roundel/barrier/{number}/verdict")
    except Exception:  # a store that cannot delete keeps a few bytes
        pass
