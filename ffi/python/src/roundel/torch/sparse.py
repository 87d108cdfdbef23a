"""Sums of sparse tensors: every rank gathers all indices and values, and adds them up in the order of ranks, so that all hold the
same bits."""

from __future__ import annotations

from typing import Union

import torch

from ..communicator import Communicator
from ..dtypes import PremulSum, ReduceOp
from ..errors import Mismatch, Unsupported
from .tensors import source, target


def all_reduce_sparse(comm: Communicator, tensor: torch.Tensor, op: Union[ReduceOp, PremulSum]) -> None:
    """Replaces a sparse COO tensor by the sum of those of all ranks. Blocks."""
    if tensor.layout is not torch.sparse_coo:
        raise Unsupported(f"all_reduce of a {tensor.layout} tensor; dense and COO ones can be reduced")
    if op is not ReduceOp.SUM:
        raise Unsupported("sparse tensors can be summed, nothing else")
    mine = tensor.detach().coalesce()
    indices, values = mine._indices().contiguous(), mine._values().contiguous()

    # Who has how many, of what shape.
    shape = [len(tensor.shape), tensor.sparse_dim(), *tensor.shape]
    facts = torch.zeros(2 + 16 + 1, dtype=torch.int64)
    if len(shape) > 18:
        raise Unsupported(f"a sparse tensor of {tensor.dim()} dimensions; 16 are possible")
    facts[: len(shape)] = torch.tensor(shape)
    facts[-1] = values.shape[0]
    everybody = torch.empty((comm.world, facts.numel()), dtype=torch.int64)
    comm.all_gather(source(facts), target(everybody, []))
    for rank in range(comm.world):
        if not torch.equal(everybody[rank, :-1], facts[:-1]):
            theirs = everybody[rank, 2 : 2 + int(everybody[rank, 0])].tolist()
            raise Mismatch(
                f"this rank's sparse tensor has shape {list(tensor.shape)}, rank {rank}'s {theirs}, or other sparse dimensions",
                ranks=(rank,),
                operation="all_reduce",
            )

    entries = everybody[:, -1].tolist()
    dims, per_entry = tensor.sparse_dim(), values[0].numel() if values.shape[0] else _numel(values.shape[1:])
    # Entries lie end to end in the gathered buffers, so indices travel with the entry as the first dimension.
    all_indices = torch.empty((sum(entries), dims), dtype=torch.int64)
    comm.all_gather(source(indices.t().contiguous()), target(all_indices, []), [n * dims for n in entries])
    all_values = torch.empty((sum(entries), *values.shape[1:]), dtype=values.dtype)
    comm.all_gather(source(values), target(all_values, []), [n * per_entry for n in entries])

    total = torch.sparse_coo_tensor(all_indices.t(), all_values, tensor.shape, dtype=tensor.dtype).coalesce()
    with torch.no_grad():
        tensor.copy_(total)


def _numel(shape: torch.Size) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count
