"""Sums NumPy arrays over all ranks, in four ways.

torchrun --nproc-per-node 4 examples/numpy_all_reduce.py
mpirun -n 4 python examples/numpy_all_reduce.py
"""

import time

import numpy as np

import roundel

ELEMENTS = 1 << 20
REPEATS = 5


def timed(what, comm, call):
    """The best time of a few, which is that of the machine rather than of what else runs on it."""
    best = float("inf")
    for _ in range(REPEATS):
        comm.barrier()
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    if comm.rank == 0:
        print(f"{what:<36}{best * 1e3:9.3f} ms")


def main():
    with roundel.Communicator.from_env() as comm:
        expected = np.arange(ELEMENTS, dtype=np.float32) * sum(range(1, comm.world + 1))
        mine = np.arange(ELEMENTS, dtype=np.float32) * (comm.rank + 1)
        total = np.empty_like(mine)
        if comm.rank == 0:
            print(f"all_reduce of {mine.nbytes >> 20} MiB over {comm.world} ranks, {comm.transport}")

        timed("from one array into another", comm, lambda: comm.all_reduce(mine, total))
        np.testing.assert_array_equal(total, expected)

        def overlapped():
            work = comm.start.all_reduce(mine, total)
            # ... compute ...
            work.wait()

        timed("started, then waited for", comm, overlapped)
        np.testing.assert_array_equal(total, expected)

        # Memory that the other ranks of the host reach: no copies on the way.
        mapped, sums = comm.empty_mapped(ELEMENTS), comm.empty_mapped(ELEMENTS)
        mapped[:] = mine
        timed("in memory that the host's ranks share", comm, lambda: comm.all_reduce(mapped, sums))
        np.testing.assert_array_equal(sums, expected)

        # The same bytes in slices that each rank keeps a part of.
        part = np.empty(ELEMENTS // comm.world, np.float32)
        comm.reduce_scatter(mine[: part.size * comm.world], part)
        np.testing.assert_array_equal(part, expected[: part.size * comm.world].reshape(comm.world, -1)[comm.rank])
        if comm.rank == 0:
            print("all sums are right")


if __name__ == "__main__":
    main()
