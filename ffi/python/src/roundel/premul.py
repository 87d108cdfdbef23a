"""Pre-multiplied sums as the library has them: an operation that is made, with one element as its factor."""

from __future__ import annotations

import struct
from ctypes import c_int32

from .dtypes import DType, PremulSum
from .errors import InvalidArgument
from .library import check, lib


class Made:
    """A pre-multiplied sum as the library's operation, for as long as a call is being handed over."""

    def __init__(self, op: PremulSum, dtype: DType) -> None:
        self._op, self._dtype = op, dtype

    def __enter__(self) -> int:
        code = c_int32()
        factor = scalar(self._op.factor, self._dtype)
        check(lib.roundel_reduce_op_create_pre_mul_sum(code, factor, self._dtype))
        self._code = code.value
        return self._code

    def __exit__(self, *_: object) -> None:
        lib.roundel_reduce_op_destroy(self._code)


_FORMATS = {
    DType.INT8: "b",
    DType.UINT8: "B",
    DType.INT32: "i",
    DType.UINT32: "I",
    DType.INT64: "q",
    DType.UINT64: "Q",
    DType.FLOAT16: "e",
    DType.FLOAT32: "f",
    DType.FLOAT64: "d",
}


def scalar(value: float, dtype: DType) -> bytes:
    """One element of this type."""
    if dtype in _FORMATS:
        whole = dtype < DType.FLOAT16
        if whole and not isinstance(value, int) and not value.is_integer():
            raise InvalidArgument(f"the factor {value} is no {dtype.name.lower()}")
        try:
            return struct.pack(_FORMATS[dtype], int(value) if whole else value)
        except (struct.error, OverflowError):
            raise InvalidArgument(f"the factor {value} does not fit {dtype.name.lower()}") from None
    if dtype is DType.BFLOAT16:
        (bits,) = struct.unpack("I", struct.pack("f", value))
        # To nearest, ties to even.
        return struct.pack("H", (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 & 0xFFFF)
    raise InvalidArgument(f"a pre-multiplied sum of {dtype.name.lower()}: there is no such factor in Python")
