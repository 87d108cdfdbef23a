"""Tensors as memory that a call can use, also where they are not dense or come in lists.

A call moves dense elements. A tensor that is not dense, or a list of tensors where the call knows one buffer, is staged: its
elements are copied to a dense buffer before the call, and results are copied back when the call has ended. Lists whose tensors
lie end to end, as the chunks of one tensor do, are used where they are.
"""

from __future__ import annotations

from typing import Callable, List, Sequence

import torch

from ..errors import InvalidArgument, Unsupported
from ..memory import Memory, is_plain, of_plain_tensor, of_tensor

#: What is left to do when a call has ended.
Finish = List[Callable[[], None]]


def source(tensor: torch.Tensor) -> Memory:
    """A tensor that a call reads."""
    return of_plain_tensor(tensor if is_plain(tensor) else _dense_copy(tensor), "the tensor")


def target(tensor: torch.Tensor, finish: Finish) -> Memory:
    """A tensor that a call writes, and may read first."""
    if is_plain(tensor):
        return of_plain_tensor(tensor, "the tensor")
    staged = _dense_copy(tensor)
    finish.append(lambda: _copy_back(tensor, staged))
    return of_plain_tensor(staged, "the tensor")


def sources(tensors: Sequence[torch.Tensor]) -> Memory:
    """A list of tensors that a call reads as one buffer."""
    whole = _end_to_end(tensors)
    if whole is not None:
        return whole
    return of_tensor(torch.cat([_flat(tensor.detach()) for tensor in tensors]), "the tensors")


def targets(tensors: Sequence[torch.Tensor], finish: Finish) -> Memory:
    """A list of tensors that a call fills as one buffer."""
    whole = _end_to_end(tensors)
    if whole is not None:
        return whole
    staged = torch.empty(sum(tensor.numel() for tensor in tensors), dtype=tensors[0].dtype)

    def copy_back() -> None:
        parts = staged.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts):
            _copy_back(tensor, part.view(tensor.shape))

    finish.append(copy_back)
    return of_tensor(staged, "the tensors")


def single(tensors: Sequence[torch.Tensor], call: str) -> torch.Tensor:
    """The tensor of a call that takes one, in a list for historical reasons."""
    if type(tensors) is not list and isinstance(tensors, torch.Tensor):
        return tensors
    if len(tensors) != 1:
        raise InvalidArgument(f"{call}: {len(tensors)} tensors; a rank has one device, so it gives one")
    return tensors[0]


def per_rank(tensors: Sequence[torch.Tensor], world: int, call: str) -> Sequence[torch.Tensor]:
    """A list with a tensor for every rank, all of one type."""
    if len(tensors) != world:
        raise InvalidArgument(f"{call}: {len(tensors)} tensors for {world} ranks")
    first = tensors[0].dtype
    if any(tensor.dtype != first for tensor in tensors):
        raise InvalidArgument(f"{call}: tensors of several types: {sorted({str(t.dtype) for t in tensors})}")
    return tensors


def counts(tensors: Sequence[torch.Tensor]) -> List[int]:
    return [tensor.numel() for tensor in tensors]


def _end_to_end(tensors: Sequence[torch.Tensor]) -> Memory | None:
    """The tensors as one buffer, where they are one."""
    first = tensors[0]
    address = first.data_ptr()
    storage = first.untyped_storage().data_ptr()
    count = 0
    for tensor in tensors:
        there = address + count * first.element_size()
        same = tensor.numel() == 0 or (tensor.data_ptr() == there and tensor.untyped_storage().data_ptr() == storage)
        if not (is_plain(tensor) and same):
            return None
        count += tensor.numel()
    element = of_tensor(first, "the tensors").element
    return Memory(address, count, element, owner=tuple(tensors))


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.resolve_conj().resolve_neg().reshape(-1)


def _dense_copy(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.layout is not torch.strided:
        raise Unsupported(f"a {tensor.layout} tensor; only all_reduce takes sparse ones")
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def _copy_back(tensor: torch.Tensor, staged: torch.Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(staged)
