"""The buffer protocol by ctypes: an address also where the memory is read-only, which ``from_buffer`` refuses."""

from __future__ import annotations

import ctypes
import struct
import sys
from ctypes import c_char_p, c_int, c_ssize_t, c_void_p

from .dtypes import Element, element
from .errors import InvalidArgument


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("buf", c_void_p),
        ("obj", c_void_p),
        ("len", c_ssize_t),
        ("itemsize", c_ssize_t),
        ("readonly", c_int),
        ("ndim", c_int),
        ("format", c_char_p),
        ("shape", ctypes.POINTER(c_ssize_t)),
        ("strides", ctypes.POINTER(c_ssize_t)),
        ("suboffsets", ctypes.POINTER(c_ssize_t)),
        ("internal", c_void_p),
    ]


# PyBUF_C_CONTIGUOUS | PyBUF_FORMAT: dense in C order, whatever the shape; read-only is fine.
_C_CONTIGUOUS = 0x0020 | 0x0010 | 0x0008
_FORMAT = 0x0004

# Functions of the interpreter itself, called with the GIL held.
_get = ctypes.pythonapi.PyObject_GetBuffer
_get.argtypes = [ctypes.py_object, ctypes.POINTER(_Buffer), c_int]
_get.restype = c_int
_release = ctypes.pythonapi.PyBuffer_Release
_release.argtypes = [ctypes.POINTER(_Buffer)]
_release.restype = None

_KINDS = {**dict.fromkeys("bhilqn", "int"), **dict.fromkeys("BHILQN", "uint"), **dict.fromkeys("efd", "float")}
_NATIVE = "@=" + ("<" if sys.byteorder == "little" else ">")


class Export:
    """An object's buffer. The object can neither move nor resize it while this lives."""

    def __init__(self, value: object) -> None:
        self._buffer = _Buffer()
        _get(value, self._buffer, _C_CONTIGUOUS | _FORMAT)
        size = max(self._buffer.itemsize, 1)
        self.address: int = self._buffer.buf or 0
        self.len_bytes: int = self._buffer.len
        self.count: int = self._buffer.len // size
        self.writable = not self._buffer.readonly

    def element(self, what: str) -> Element:
        text = (self._buffer.format or b"B").decode("ascii", "replace")
        order, code = (text[0], text[1:]) if text[:1] in ("@", "=", "<", ">", "!") else ("@", text)
        size: int = self._buffer.itemsize
        if order not in _NATIVE and size > 1:
            raise InvalidArgument(f"{what} has elements in foreign byte order ({text}); convert them first")
        if code == "?":
            return element("bool")
        if code == "c":
            return element("uint8")
        if code in ("Zf", "Zd"):
            return element(f"complex{8 * size}")
        if code in _KINDS and struct.calcsize(order + code) == size:
            return element(f"{_KINDS[code]}{8 * size}", size)
        raise InvalidArgument(f"{what} has elements of format {text!r}, which is not understood")

    def __del__(self) -> None:
        _release(self._buffer)
