"""``libroundel.so`` and its functions, as ``roundel.h`` declares them. The only module that calls C.

Functions are called through ``ctypes.CDLL``, which gives up the interpreter's lock for the time of the call.
"""

from __future__ import annotations

import ctypes
import operator
import os
from ctypes import POINTER, c_bool, c_char_p, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Dict, List, Type

from . import errors
from .errors import RoundelError

#: Names another library than the one in the wheel; for those who build the library themselves.
LIBRARY_VARIABLE = "ROUNDEL_LIBRARY"

SUCCESS = 0
IN_PROGRESS = 1

UNIQUE_ID_BYTES = 128
#: Enough for every invitation, the NUL at its end among them.
INVITATION_TEXT_BYTES = 4096


class UniqueIdStruct(ctypes.Structure):
    """``roundel_unique_id_t``"""

    _fields_ = [("bytes", ctypes.c_uint8 * UNIQUE_ID_BYTES)]


class ErrorDetails(ctypes.Structure):
    """``roundel_error_details_t``"""

    _fields_ = [
        ("size", c_size_t),
        ("code", c_int32),
        ("system_errno", c_int32),
        ("function", c_char_p),
        ("message", c_char_p),
        ("rank", c_int32),
        ("collective", c_int32),
        ("sequence", c_uint64),
        ("ranks", POINTER(c_int32)),
        ("rank_count", c_size_t),
        ("buffer", c_int32),
        ("done_bytes", c_uint64),
        ("total_bytes", c_uint64),
    ]


_comm = _work = _options = c_void_p
_sizes = POINTER(c_size_t)

#: Calls that exist blocking and with ``_async``: their arguments before the communicator.
CALLS: Dict[str, List[Any]] = {
    "roundel_all_reduce": [c_void_p, c_void_p, c_size_t, c_int32, c_int32],
    "roundel_reduce": [c_void_p, c_void_p, c_size_t, c_int32, c_int32, c_int32],
    "roundel_broadcast": [c_void_p, c_void_p, c_size_t, c_int32, c_int32],
    "roundel_reduce_scatter": [c_void_p, c_void_p, c_size_t, c_int32, c_int32],
    "roundel_reduce_scatter_v": [c_void_p, c_void_p, _sizes, c_int32, c_int32],
    "roundel_all_gather": [c_void_p, c_void_p, c_size_t, c_int32],
    "roundel_all_gather_v": [c_void_p, c_void_p, _sizes, c_int32],
    "roundel_gather": [c_void_p, c_void_p, c_size_t, c_int32, c_int32],
    "roundel_scatter": [c_void_p, c_void_p, c_size_t, c_int32, c_int32],
    "roundel_all_to_all": [c_void_p, c_void_p, c_size_t, c_int32],
    "roundel_all_to_all_v": [c_void_p, _sizes, c_void_p, _sizes, c_int32],
    "roundel_send": [c_void_p, c_size_t, c_int32, c_int32],
    "roundel_recv": [c_void_p, c_size_t, c_int32, c_int32],
    "roundel_sendrecv": [c_void_p, c_size_t, c_int32, c_void_p, c_size_t, c_int32, c_int32],
    "roundel_barrier": [],
}

#: Everything else that returns a ``roundel_result_t``.
FUNCTIONS: Dict[str, List[Any]] = {
    "roundel_init": [POINTER(_comm), _options],
    "roundel_comm_init_rank": [POINTER(_comm), c_int32, UniqueIdStruct, c_int32, _options],
    "roundel_comm_init_threads": [POINTER(_comm), c_int32, _options],
    "roundel_comm_split": [_comm, c_int32, c_int64, POINTER(_comm)],
    "roundel_comm_subset": [_comm, POINTER(c_int32), c_size_t, POINTER(_comm)],
    "roundel_comm_destroy": [_comm],
    "roundel_comm_abort": [_comm, c_char_p],
    "roundel_comm_status": [_comm],
    "roundel_comm_rank": [_comm, POINTER(c_int32)],
    "roundel_comm_world": [_comm, POINTER(c_int32)],
    "roundel_comm_epoch": [_comm, POINTER(c_int32)],
    "roundel_comm_members": [_comm, POINTER(c_int32), c_size_t],
    "roundel_comm_host_count": [_comm, POINTER(c_int32)],
    "roundel_comm_host_of": [_comm, c_int32, POINTER(c_int32)],
    "roundel_comm_transport": [_comm, POINTER(c_char_p)],
    "roundel_shrink": [_comm, POINTER(_comm)],
    "roundel_agree": [_comm, c_bool, POINTER(c_bool)],
    "roundel_all_reduce_preserving": [c_void_p, c_size_t, c_int32, c_int32, _comm],
    "roundel_invitation": [_comm, c_char_p, c_size_t],
    "roundel_enlist": [POINTER(_comm), c_char_p, _options],
    "roundel_grow": [_comm, POINTER(_comm)],
    "roundel_explain": [
        c_int32,
        c_size_t,
        c_int32,
        c_int32,
        c_int32,
        c_bool,
        c_bool,
        c_char_p,
        c_size_t,
        POINTER(c_size_t),
        _comm,
    ],
    "roundel_group_start": [],
    "roundel_group_end": [],
    "roundel_group_end_async": [POINTER(_work)],
    "roundel_work_test": [_work],
    "roundel_work_wait_for": [_work, c_int64],
    "roundel_work_free": [_work],
    "roundel_alloc": [POINTER(c_void_p), c_size_t, _comm],
    "roundel_free": [c_void_p],
    "roundel_options_create": [POINTER(_options)],
    "roundel_options_set": [_options, c_char_p, c_char_p],
    "roundel_options_destroy": [_options],
    "roundel_reduce_op_create_pre_mul_sum": [POINTER(c_int32), c_void_p, c_int32],
    "roundel_reduce_op_destroy": [c_int32],
    "roundel_unique_id_create": [POINTER(UniqueIdStruct)],
    "roundel_last_error_details": [POINTER(ErrorDetails)],
}

_ERRORS: Dict[int, Type[RoundelError]] = {
    2: errors.InvalidArgument,
    3: errors.InvalidArgument,
    4: errors.Unsupported,
    5: errors.Mismatch,
    6: errors.PeerLost,
    7: errors.TimedOut,
    8: errors.InitializationError,
    9: errors.Aborted,
    10: errors.SystemFailure,
    12: errors.Corrupted,
}

BUFFER_STATES = ("intact", "undefined")
COLLECTIVES = (
    "all_reduce",
    "reduce",
    "broadcast",
    "reduce_scatter",
    "all_gather",
    "gather",
    "scatter",
    "all_to_all",
    "barrier",
    "send_recv",
)


def integer(what: str, value: Any, bits: int = 32) -> int:
    """``value``, if C can hold it in so many bits: ctypes by itself keeps the low ones of any number, silently."""
    try:
        number = operator.index(value)
    except TypeError:
        raise errors.InvalidArgument(f"{what}={value!r}; it is an integer") from None
    if not -(1 << (bits - 1)) <= number < 1 << (bits - 1):
        raise errors.InvalidArgument(f"{what}={number}; it has at most {bits} bits")
    return number


def _load() -> ctypes.CDLL:
    beside = Path(__file__).with_name("libroundel.so")
    path = os.environ.get(LIBRARY_VARIABLE) or str(beside)
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(
            f"roundel's library could not be loaded from {path}: {error}. Wheels carry it; in a clone, "
            f"`pip install ./ffi/python` builds it; {LIBRARY_VARIABLE} names another one"
        ) from None
    for name, arguments in FUNCTIONS.items():
        _declare(library, name, arguments)
    for name, arguments in CALLS.items():
        _declare(library, name, [*arguments, _comm])
        _declare(library, f"{name}_async", [*arguments, _comm, POINTER(_work)])
    library.roundel_version_string.argtypes = []
    library.roundel_version_string.restype = c_char_p
    return library


def _declare(library: ctypes.CDLL, name: str, arguments: List[Any]) -> None:
    function = getattr(library, name)
    function.argtypes = arguments
    function.restype = c_int32


#: The library. Every function below returns a result for :func:`check`.
lib = _load()


def check(result: int) -> None:
    """Raises the error that this thread's last call returned, if it did."""
    if result:
        raise last_error()


def last_error() -> RoundelError:
    """What went wrong last on this thread."""
    details = ErrorDetails(size=ctypes.sizeof(ErrorDetails))
    if lib.roundel_last_error_details(details):
        return RoundelError("the library does not tell its last error; it does not fit this package")
    message = (details.message or b"").decode("utf-8", "replace")
    ranks = tuple(details.ranks[i] for i in range(details.rank_count)) if details.ranks else ()
    known = 0 <= details.collective < len(COLLECTIVES)
    return _ERRORS.get(details.code, RoundelError)(
        message,
        ranks=ranks,
        rank=details.rank if details.rank >= 0 else None,
        operation=COLLECTIVES[details.collective] if known else None,
        sequence=details.sequence if known else None,
        progress=(details.done_bytes, details.total_bytes) if details.total_bytes else None,
        buffer=BUFFER_STATES[details.buffer],
    )


def library_version() -> str:
    version: bytes = lib.roundel_version_string()
    return version.decode()
