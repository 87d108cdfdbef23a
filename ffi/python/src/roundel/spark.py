"""Spark: the tasks of a barrier stage as the ranks of a job.

>>> def train(rows):                                            # doctest: +SKIP
...     with roundel.spark.from_barrier() as comm:
...         ...
>>> data.rdd.barrier().mapPartitions(train).collect()           # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from .communicator import Communicator, UniqueId
from .settings import Setting

if TYPE_CHECKING:
    from pyspark import BarrierTaskContext

__all__ = ["from_barrier"]


def from_barrier(context: Optional[BarrierTaskContext] = None, **settings: Setting) -> Communicator:
    """Joins the job of the barrier stage that this task is of: partition 0 is rank 0, and so on. Blocks until all tasks have called it.

    Close the communicator before the task ends: Spark keeps its workers for later tasks. ``settings`` are those of
    :meth:`Communicator.from_env`. Spark carries the job's id, which lets whoever reads it join: encrypt what Spark sends
    (``spark.network.crypto.enabled``) where others share the network.
    """
    if context is None:
        from pyspark import BarrierTaskContext

        context = BarrierTaskContext.get()
    rank = context.partitionId()
    made = UniqueId() if rank == 0 else None
    id = context.allGather(made.hex() if made else "")[0]
    return Communicator.init(UniqueId(bytes.fromhex(id)), rank, len(context.getTaskInfos()), **settings)
