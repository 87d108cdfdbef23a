"""A ctypes wrapper of NCCL as vLLM's `pynccl_wrapper` is one: a table of functions that must be there, the id by value,
handles as void pointers, every result checked. pynccl_shape.py LIBRARY RANK WORLD FILE"""

import ctypes
import os
import sys
import time

result_t = ctypes.c_int
comm_t = window_t = stream_t = buffer_t = ctypes.c_void_p
INT64, FLOAT32, BFLOAT16, SUM, MAX = 4, 7, 9, 0, 2


class UniqueId(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_byte * 128)]


# Name and arguments of what vLLM 0.33 insists on.
FUNCTIONS = {
    "ncclGetErrorString": [result_t],
    "ncclGetVersion": [ctypes.POINTER(ctypes.c_int)],
    "ncclGetUniqueId": [ctypes.POINTER(UniqueId)],
    "ncclCommInitRank": [ctypes.POINTER(comm_t), ctypes.c_int, UniqueId, ctypes.c_int],
    "ncclAllReduce": [buffer_t, buffer_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, comm_t, stream_t],
    "ncclReduce": [buffer_t, buffer_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, comm_t, stream_t],
    "ncclAllGather": [buffer_t, buffer_t, ctypes.c_size_t, ctypes.c_int, comm_t, stream_t],
    "ncclReduceScatter": [buffer_t, buffer_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, comm_t, stream_t],
    "ncclSend": [buffer_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, comm_t, stream_t],
    "ncclRecv": [buffer_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, comm_t, stream_t],
    "ncclBroadcast": [buffer_t, buffer_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, comm_t, stream_t],
    "ncclCommDestroy": [comm_t],
    "ncclCommAbort": [comm_t],
    "ncclCommSuspend": [comm_t, ctypes.c_int],
    "ncclCommResume": [comm_t],
    "ncclGroupStart": [],
    "ncclGroupEnd": [],
    "ncclCommWindowRegister": [comm_t, buffer_t, ctypes.c_size_t, ctypes.POINTER(window_t), ctypes.c_int],
    "ncclCommWindowDeregister": [comm_t, window_t],
    "ncclGetLastError": [comm_t],
    "ncclMemAlloc": [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t],
    "ncclMemFree": [ctypes.c_void_p],
}


class Library:
    def __init__(self, path):
        library = ctypes.CDLL(path)
        for name, arguments in FUNCTIONS.items():
            function = getattr(library, name)
            function.argtypes = arguments
            function.restype = ctypes.c_char_p if name in ("ncclGetErrorString", "ncclGetLastError") else result_t
            setattr(self, name, function if function.restype is ctypes.c_char_p else self.checked(name, function))

    def checked(self, name, function):
        def call(*arguments):
            code = function(*arguments)
            if code != 0:
                words = self.ncclGetErrorString(code).decode()
                raise RuntimeError(f"{name}: NCCL error: {words}: {self.ncclGetLastError(None).decode()}")

        return call


def array(kind, values):
    values = list(values)
    return (kind * len(values))(*values)


def main():
    path, rank, world, file = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    nccl = Library(path)
    version = ctypes.c_int()
    nccl.ncclGetVersion(ctypes.byref(version))
    assert version.value >= 22907, version

    unique = UniqueId()
    if rank == 0:
        nccl.ncclGetUniqueId(ctypes.byref(unique))
        with open(file + ".draft", "wb") as out:
            out.write(bytes(unique.internal))
        os.rename(file + ".draft", file)
    else:
        while not os.path.exists(file):
            time.sleep(0.001)  # the test ends a rank that waits too long
        with open(file, "rb") as source:
            ctypes.memmove(ctypes.byref(unique.internal), source.read(), 128)

    comm = comm_t()
    nccl.ncclCommInitRank(ctypes.byref(comm), world, unique, rank)
    # vLLM warms up with one element.
    one = array(ctypes.c_float, [1])
    nccl.ncclAllReduce(one, one, 1, FLOAT32, SUM, comm, None)
    assert one[0] == world, one[0]

    mine = array(ctypes.c_int64, (rank * 100 + i for i in range(12 * world)))
    sums = [sum(r * 100 + i for r in range(world)) for i in range(12 * world)]
    out = array(ctypes.c_int64, [0] * (12 * world))
    nccl.ncclAllReduce(mine, out, 12 * world, INT64, SUM, comm, None)
    assert list(out) == sums
    nccl.ncclReduceScatter(mine, out, 12, INT64, SUM, comm, None)
    assert list(out[:12]) == sums[12 * rank : 12 * rank + 12]
    nccl.ncclAllGather(mine, out, 12, INT64, comm, None)
    assert list(out) == [r * 100 + i for r in range(world) for i in range(12)]
    nccl.ncclBroadcast(mine, out, 12, INT64, world - 1, comm, None)
    assert list(out[:12]) == [(world - 1) * 100 + i for i in range(12)]
    nccl.ncclReduce(mine, out, 12, INT64, MAX, 0, comm, None)
    assert rank != 0 or list(out[:12]) == [(world - 1) * 100 + i for i in range(12)]

    nccl.ncclGroupStart()
    nccl.ncclSend(mine, 12, INT64, (rank + 1) % world, comm, None)
    nccl.ncclRecv(out, 12, INT64, (rank - 1) % world, comm, None)
    nccl.ncclGroupEnd()
    assert list(out[:12]) == [(rank - 1) % world * 100 + i for i in range(12)]

    # Its symmetric memory: an allocation that becomes a window.
    memory, window = ctypes.c_void_p(), window_t()
    nccl.ncclMemAlloc(ctypes.byref(memory), 1 << 16)
    nccl.ncclCommWindowRegister(comm, memory, 1 << 16, ctypes.byref(window), 1)
    floats = ctypes.cast(memory, ctypes.POINTER(ctypes.c_float))
    floats[0] = rank + 1
    nccl.ncclAllReduce(memory, memory, 1, FLOAT32, SUM, comm, None)
    assert floats[0] == world * (world + 1) / 2
    nccl.ncclCommWindowDeregister(comm, window)
    nccl.ncclMemFree(memory)

    nccl.ncclCommSuspend(comm, 1)
    nccl.ncclCommResume(comm)
    try:
        nccl.ncclBroadcast(mine, out, 12, INT64, world, comm, None)
        raise SystemExit("a root that does not exist was taken")
    except RuntimeError as error:
        assert f"root {world}" in str(error), error
    nccl.ncclCommDestroy(comm)
    print("@@right")


main()
