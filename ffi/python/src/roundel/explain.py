"""What a call would do, for people."""

from __future__ import annotations

import contextlib
import ctypes
from ctypes import c_size_t
from typing import Any

from .calls import Op, operation
from .dtypes import PremulSum, ReduceOp, named
from .errors import InvalidArgument
from .library import COLLECTIVES, check, integer, lib
from .premul import Made


def explanation(
    comm: Any, collective: str, count: int, dtype: str, op: Op, root: int, *, in_place: bool, mapped: bool
) -> str:
    """See :meth:`Communicator.explain`."""
    if collective not in COLLECTIVES:
        raise InvalidArgument(f"collective={collective!r}: expected one of {', '.join(COLLECTIVES)}")
    kind = named(dtype)
    count = integer("count", count, 64)
    if count < 0:
        raise InvalidArgument(f"count={count}; it is not negative")
    # A call that does not reduce has no use for an operation, and the library does not look at it.
    how = operation(op, kind) if "reduce" in collective else ReduceOp.SUM
    with contextlib.ExitStack() as made:
        code = made.enter_context(Made(how, kind.dtype)) if isinstance(how, PremulSum) else how
        call = (COLLECTIVES.index(collective), count * kind.lanes, kind.dtype, code, root, in_place, mapped)
        need = c_size_t()
        check(lib.roundel_explain(*call, None, 0, need, comm))
        text = ctypes.create_string_buffer(need.value + 1)
        check(lib.roundel_explain(*call, text, len(text), None, comm))
        return text.value.decode()
