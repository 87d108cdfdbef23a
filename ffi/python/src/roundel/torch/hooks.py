"""A DistributedDataParallel communication hook on the zero-copy path."""

# No `from __future__ import annotations`: DistributedDataParallel looks at a hook's annotations, and wants types.

from typing import Any, Dict, Optional

import torch
import torch.distributed as dist

from . import empty_mapped


class MappedAllReduce:
    """Averages gradients in memory that the ranks of a host share::

        model = DistributedDataParallel(module)
        model.register_comm_hook(MappedAllReduce(), MappedAllReduce.hook)

    Each bucket is copied once, into memory of its own that stays for the next steps, and reduced there without the copies through
    staging memory that an ordinary bucket needs. ``process_group`` is the group of the model, by default that of the world.
    """

    def __init__(self, process_group: Optional[dist.ProcessGroup] = None) -> None:
        self._group = process_group
        self._buckets: Dict[int, torch.Tensor] = {}

    @staticmethod
    def hook(state: "MappedAllReduce", bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """What ``register_comm_hook`` takes, with the object as its state."""
        return state(bucket)

    def __call__(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        gradients = bucket.buffer()
        mapped = self._buckets.get(bucket.index())
        # DDP rebuilds its buckets after the first step.
        if mapped is None or mapped.shape != gradients.shape or mapped.dtype != gradients.dtype:
            mapped = self._buckets[bucket.index()] = empty_mapped(
                gradients.shape, dtype=gradients.dtype, group=self._group
            )
        mapped.copy_(gradients)
        work: Any = dist.all_reduce(mapped, dist.ReduceOp.AVG, group=self._group, async_op=True)
        return work.get_future().then(lambda future: future.value()[0])
