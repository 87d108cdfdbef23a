"""Memory that the other ranks of the host can reach."""

from __future__ import annotations

import ctypes
import math
from ctypes import c_void_p
from typing import Any, Sequence, Tuple, Union

from .dtypes import Element, named
from .errors import InvalidArgument
from .library import check, integer, lib
from .memory import Memory

__all__ = ["Mapped"]


class Mapped(Memory):
    """Zeroed memory of the library's. Every call takes it; ``numpy.asarray(mapped)`` and :meth:`bytes` look into it. It is given
    back when nothing refers to it any more, views included."""

    __slots__ = ("_block",)

    def __init__(self, comm: Any, count: int, dtype: Union[str, Element]) -> None:
        kind = dtype if isinstance(dtype, Element) else named(dtype)
        count = integer("count", count, 64)
        if count < 0:
            raise InvalidArgument(f"memory for {count} elements")
        block = _Block(comm, count * kind.size_bytes)
        super().__init__(block.address, count, kind, owner=block)
        self._block = block

    def bytes(self) -> ctypes.Array[ctypes.c_char]:
        """The memory through the buffer protocol: writable, and alive as long as the result is."""
        view = (ctypes.c_char * self.size_bytes).from_address(self.address)
        view._roundel_block = self._block  # type: ignore[attr-defined]
        return view

    @property
    def __array_interface__(self) -> Any:
        kinds = {"float": "f", "int": "i", "uint": "u", "complex": "c", "bool": "b"}
        kind = kinds.get(self.element.name.rstrip("0123456789"))
        if kind is None:
            raise InvalidArgument(f"NumPy has no {self.element.name}; look at bytes() instead")
        return {
            "version": 3,
            "shape": (self.count,),
            "typestr": f"<{kind}{self.element.size_bytes}",
            "data": (self.address, False),
        }


class _Block:
    """What is to be given back."""

    def __init__(self, comm: Any, len_bytes: int) -> None:
        self.address = 0
        memory = c_void_p()
        # Even nothing has an address.
        check(lib.roundel_alloc(memory, max(len_bytes, 1), comm))
        self.address = memory.value or 0

    def __del__(self) -> None:
        if self.address:
            lib.roundel_free(self.address)


def shape_of(shape: Union[int, Sequence[int]]) -> Tuple[Tuple[int, ...], int]:
    """A shape as a tuple, and how many elements it has."""
    extents = (shape,) if isinstance(shape, int) else tuple(int(extent) for extent in shape)
    if any(extent < 0 for extent in extents):
        raise InvalidArgument(f"shape {extents}: a negative extent")
    return extents, math.prod(extents)
