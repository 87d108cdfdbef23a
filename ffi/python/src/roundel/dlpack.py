"""DLPack by ctypes: what a capsule says of its tensor, without a copy and without consuming it."""

from __future__ import annotations

import ctypes
from ctypes import c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from typing import Any, Optional, Tuple

from .dtypes import Element, element
from .errors import InvalidArgument

#: kDLCPU, kDLCUDAHost, kDLROCMHost: memory that this process can address.
HOST_DEVICES = frozenset({1, 3, 11})


class _Device(ctypes.Structure):
    _fields_ = [("type", c_int32), ("id", c_int32)]


class _DataType(ctypes.Structure):
    _fields_ = [("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device", _Device),
        ("ndim", c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(c_int64)),
        ("strides", ctypes.POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", c_uint32),
        ("minor", c_uint32),
        ("manager_ctx", c_void_p),
        ("deleter", c_void_p),
        ("flags", c_uint64),
        ("dl_tensor", _Tensor),
    ]


_READ_ONLY = 1
_LEGACY = b"dltensor"
_VERSIONED = b"dltensor_versioned"

_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.argtypes = [ctypes.py_object, ctypes.c_char_p]
_is_valid.restype = ctypes.c_int
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_pointer.restype = c_void_p

#: kDLInt, kDLUInt, kDLFloat, kDLComplex, with the bits in the name.
_BY_SIZE = {0: "int", 1: "uint", 2: "float", 5: "complex"}
#: kDLBfloat, kDLBool, and the float8 family.
_BY_CODE = {
    4: "bfloat16",
    6: "bool",
    7: "float8_e3m4",
    8: "float8_e4m3",
    9: "float8_e4m3b11fnuz",
    10: "float8_e4m3fn",
    11: "float8_e4m3fnuz",
    12: "float8_e5m2",
    13: "float8_e5m2fnuz",
    14: "float8_e8m0fnu",
}


class Export:
    """A tensor that its owner has exported. It stays exported while this object lives."""

    def __init__(self, value: Any) -> None:
        try:
            capsule = value.__dlpack__(max_version=(1, 0))
        except TypeError:
            capsule = value.__dlpack__()
        # A capsule that nobody consumes frees its tensor when it goes: keeping it is keeping the memory.
        self._capsule = capsule
        if _is_valid(capsule, _VERSIONED):
            managed = _Versioned.from_address(_pointer(capsule, _VERSIONED))
            if managed.major != 1:
                raise InvalidArgument(f"DLPack {managed.major}.{managed.minor}; versions before 2 are understood")
            tensor, read_only = managed.dl_tensor, bool(managed.flags & _READ_ONLY)
        elif _is_valid(capsule, _LEGACY):
            # It cannot say whether it may be written to, and those who still send it (JAX, TensorFlow) hold immutable arrays.
            tensor, read_only = _Tensor.from_address(_pointer(capsule, _LEGACY)), True
        else:
            raise InvalidArgument(f"{type(value).__name__}.__dlpack__() gave no DLPack capsule")
        self.writable = not read_only
        self.address: int = (tensor.data or 0) + tensor.byte_offset
        self.shape: Tuple[int, ...] = tuple(tensor.shape[i] for i in range(tensor.ndim))
        self.strides: Optional[Tuple[int, ...]] = None
        if tensor.strides:
            self.strides = tuple(tensor.strides[i] for i in range(tensor.ndim))
        self._type = (tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes)

    def element(self, what: str) -> Element:
        code, bits, lanes = self._type
        name = f"{_BY_SIZE[code]}{bits}" if code in _BY_SIZE else _BY_CODE.get(code)
        if lanes != 1 or bits % 8 or name is None:
            raise InvalidArgument(
                f"{what} has elements of DLPack type {code}, {bits} bits, {lanes} lanes, which are not understood"
            )
        return element(name, bits // 8)
