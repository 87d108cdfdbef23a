"""Element types and reductions: names, numbers (those of ``roundel.h``, which are NCCL's where it has them), and what maps to them.

A Python buffer may hold types that the library has no arithmetic for. An :class:`Element` says how such a type travels:
which of the library's types it is moved as, how many of those make one element, and which reductions keep their meaning.
"""

from __future__ import annotations

import enum
from typing import Dict, FrozenSet, NamedTuple, Optional, Tuple

from .errors import InvalidArgument, Unsupported


class DType(enum.IntEnum):
    """Element types that the library computes with."""

    INT8 = 0
    UINT8 = 1
    INT32 = 2
    UINT32 = 3
    INT64 = 4
    UINT64 = 5
    FLOAT16 = 6
    FLOAT32 = 7
    FLOAT64 = 8
    BFLOAT16 = 9
    FLOAT8_E4M3 = 10
    FLOAT8_E5M2 = 11

    @property
    def size_bytes(self) -> int:
        return _SIZES[self]


_SIZES = (1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1)


class ReduceOp(enum.IntEnum):
    """How contributions combine, element by element. :func:`premul_sum` makes the tenth."""

    SUM = 0
    PROD = 1
    MAX = 2
    MIN = 3
    AVG = 4
    BIT_AND = 6
    BIT_OR = 7
    BIT_XOR = 8


class PremulSum(NamedTuple):
    """Each rank's input is multiplied by its own ``factor`` first, then summed."""

    factor: float


def premul_sum(factor: float) -> PremulSum:
    """The sum of inputs that each rank multiplies by its own ``factor`` first."""
    # Whole numbers stay whole: not every integer of 64 bits is a float.
    return PremulSum(factor if isinstance(factor, int) else float(factor))


_ALL = frozenset(ReduceOp)
_BITWISE = frozenset({ReduceOp.BIT_AND, ReduceOp.BIT_OR, ReduceOp.BIT_XOR})
_LINEAR = frozenset({ReduceOp.SUM, ReduceOp.AVG})
_NONE: FrozenSet[ReduceOp] = frozenset()
#: On truth values a sum is "any" and a product is "all"; max and min say the same.
_OF_BOOL = {
    ReduceOp.SUM: ReduceOp.MAX,
    ReduceOp.MAX: ReduceOp.MAX,
    ReduceOp.PROD: ReduceOp.MIN,
    ReduceOp.MIN: ReduceOp.MIN,
    ReduceOp.BIT_AND: ReduceOp.BIT_AND,
    ReduceOp.BIT_OR: ReduceOp.BIT_OR,
    ReduceOp.BIT_XOR: ReduceOp.BIT_XOR,
}


class Element(NamedTuple):
    """How one element of a buffer travels."""

    name: str
    #: The library's type.
    dtype: DType
    #: How many of them make one element.
    lanes: int
    #: Reductions that mean on the lanes what they mean on the element.
    reductions: FrozenSet[ReduceOp]

    @property
    def size_bytes(self) -> int:
        return self.dtype.size_bytes * self.lanes

    @property
    def scales(self) -> bool:
        """Whether a pre-multiplied sum has a meaning."""
        return ReduceOp.AVG in self.reductions

    def reduction(self, op: ReduceOp) -> ReduceOp:
        """The library's reduction for ``op`` on this type."""
        if op not in self.reductions:
            allowed = ", ".join(sorted(o.name for o in self.reductions))
            offer = f"it takes {allowed}" if allowed else "it can be moved, not reduced"
            raise InvalidArgument(f"{op.name} of {self.name}: {offer}")
        return _OF_BOOL[op] if self.name == "bool" else op


def _known() -> Dict[str, Element]:
    elements = {}
    for name, dtype in [
        ("int8", DType.INT8),
        ("uint8", DType.UINT8),
        ("int32", DType.INT32),
        ("uint32", DType.UINT32),
        ("int64", DType.INT64),
        ("uint64", DType.UINT64),
    ]:
        elements[name] = Element(name, dtype, 1, _ALL)
    for name, dtype in [
        ("float16", DType.FLOAT16),
        ("float32", DType.FLOAT32),
        ("float64", DType.FLOAT64),
        ("bfloat16", DType.BFLOAT16),
        ("float8_e4m3fn", DType.FLOAT8_E4M3),
        ("float8_e5m2", DType.FLOAT8_E5M2),
    ]:
        elements[name] = Element(name, dtype, 1, _ALL - _BITWISE)
    for name, dtype in [("complex32", DType.FLOAT16), ("complex64", DType.FLOAT32), ("complex128", DType.FLOAT64)]:
        elements[name] = Element(name, dtype, 2, _LINEAR)
    elements["bool"] = Element("bool", DType.UINT8, 1, frozenset(_OF_BOOL))
    return elements


_KNOWN = _known()
_MOVED: Dict[Tuple[str, int], Element] = {}


def element(name: str, size_bytes: Optional[int] = None) -> Element:
    """The element type of this name, as NumPy and torch spell it. One that the library does not know is moved as its
    ``size_bytes`` bytes and cannot be reduced; without a size it is refused."""
    found = _KNOWN.get(name)
    if found is not None:
        return found
    if not size_bytes:
        known = ", ".join(_KNOWN)
        raise Unsupported(f"elements of type {name!r}; known: {known}")
    # One object for a type, so that types can be compared by identity.
    return _MOVED.setdefault((name, size_bytes), Element(name, DType.UINT8, size_bytes, _NONE))


def named(dtype: object) -> Element:
    """The element type that a caller names, as in ``"float32"``."""
    if isinstance(dtype, str):
        return element(dtype)
    raise InvalidArgument(f"dtype={dtype!r}: expected the name of an element type, as in 'float32'")


def reduce_op(op: object) -> ReduceOp:
    """``op`` as a :class:`ReduceOp`: itself, or its name in any case (``"sum"``)."""
    if isinstance(op, ReduceOp):
        return op
    if isinstance(op, str):
        try:
            return ReduceOp[op.upper()]
        except KeyError:
            pass
    names = ", ".join(repr(o.name.lower()) for o in ReduceOp)
    raise InvalidArgument(f"op={op!r}: expected a roundel.ReduceOp, roundel.premul_sum(factor), or one of {names}")
