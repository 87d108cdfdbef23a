"""Every call on NumPy arrays, against NumPy, over 2 to 8 ranks."""

import numpy as np
import pytest

import roundel
from harness import need, threads
from roundel import ReduceOp

WORLDS = [2, 3, 5, 8]
#: Values small enough that every reduction of 8 of them is exact in every type.
REDUCTIONS = {
    ReduceOp.SUM: lambda all: all.sum(axis=0),
    ReduceOp.PROD: lambda all: all.prod(axis=0),
    ReduceOp.MAX: lambda all: all.max(axis=0),
    ReduceOp.MIN: lambda all: all.min(axis=0),
}
INTEGERS = ["int8", "uint8", "int32", "uint32", "int64", "uint64"]
FLOATS = ["float16", "float32", "float64"]


def values(rank, count=37):
    """Of one rank: ones and twos, different on every rank, so that no product of 8 exceeds 256... which int8 wraps alike."""
    return (np.arange(count) * (rank + 3) // 4 % 2) + 1


def everybody(world, dtype, count=37):
    return np.stack([values(rank, count) for rank in range(world)]).astype(dtype)


@pytest.mark.parametrize("world", WORLDS)
def test_all_reduce(world):
    def body(comm):
        for dtype in INTEGERS + FLOATS:
            for op, reference in REDUCTIONS.items():
                if op is ReduceOp.PROD and dtype == "int8":
                    continue  # the reference does not fit
                expected = reference(everybody(world, dtype)).astype(dtype)
                given, taken = values(comm.rank).astype(dtype), np.zeros(37, dtype)
                comm.all_reduce(given, taken, op)
                np.testing.assert_array_equal(taken, expected, f"{op} of {dtype}")
                np.testing.assert_array_equal(given, values(comm.rank).astype(dtype))
                comm.all_reduce(given, op=op.name.lower())
                np.testing.assert_array_equal(given, expected)
        for dtype in INTEGERS:
            bits = everybody(world, dtype)
            for op, reduce in [("bit_and", np.bitwise_and), ("bit_or", np.bitwise_or), ("bit_xor", np.bitwise_xor)]:
                data = bits[comm.rank].copy()
                comm.all_reduce(data, op=op)
                np.testing.assert_array_equal(data, reduce.reduce(bits))

    threads(world, body)


@pytest.mark.parametrize("world", [2, 4])
def test_all_reduce_of_small_floats(world):
    ml_dtypes = need("ml_dtypes")

    def body(comm):
        for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
            kind = getattr(ml_dtypes, name)
            data = values(comm.rank).astype(kind)
            comm.all_reduce(data)
            np.testing.assert_array_equal(data.astype("f4"), everybody(world, "f4").sum(axis=0))

    threads(world, body)


def test_averages_factors_truth_and_complex_numbers():
    def body(comm):
        data = values(comm.rank).astype("f8")
        comm.all_reduce(data, op="avg")
        np.testing.assert_allclose(data, everybody(4, "f8").mean(axis=0))

        for dtype in ("f2", "f4", "f8", "i4", "c8"):
            data = values(comm.rank).astype(dtype)
            comm.all_reduce(data, op=roundel.premul_sum(comm.rank + 1))
            factors = np.arange(1, 5)[:, None]
            np.testing.assert_array_equal(data, (everybody(4, dtype) * factors).sum(axis=0))
        with pytest.raises(roundel.InvalidArgument, match="factor 0.5 is no int32"):
            comm.all_reduce(np.zeros(3, "i4"), op=roundel.premul_sum(0.5))

        truth = np.arange(8) >> comm.rank % 2 & 1 == 1
        truths = np.stack([np.arange(8) >> rank % 2 & 1 == 1 for rank in range(4)])
        anyone, everyone = truth.copy(), truth.copy()
        comm.all_reduce(anyone)
        comm.all_reduce(everyone, op="prod")
        np.testing.assert_array_equal(anyone, truths.any(axis=0))
        np.testing.assert_array_equal(everyone, truths.all(axis=0))

        numbers = np.array([1 + 2j, comm.rank - 1j], "c16")
        comm.all_reduce(numbers)
        np.testing.assert_array_equal(numbers, [4 + 8j, 6 - 4j])
        for bad in ("prod", "max"):
            with pytest.raises(roundel.InvalidArgument, match="complex128"):
                comm.all_reduce(numbers, op=bad)

    threads(4, body)


@pytest.mark.parametrize("world", WORLDS)
def test_reduce_and_broadcast_for_every_root(world):
    def body(comm):
        for root in range(world):
            given, taken = values(comm.rank).astype("f4"), np.zeros(37, "f4")
            comm.reduce(given, taken if comm.rank == root else None, root)
            if comm.rank == root:
                np.testing.assert_array_equal(taken, everybody(world, "f4").sum(axis=0))
            data = np.full((4, 5), comm.rank, "i8")
            comm.broadcast(data, root)
            assert (data == root).all()
        constant = np.arange(3.0)
        constant.flags.writeable = comm.rank != 0
        comm.broadcast(constant, 0)  # the root only reads

    threads(world, body)


@pytest.mark.parametrize("world", WORLDS)
def test_blocks(world):
    def body(comm):
        me, n = comm.rank, 11
        whole = everybody(world, "i4", n * world)

        block = np.zeros(n, "i4")
        comm.reduce_scatter(whole[me], block)
        np.testing.assert_array_equal(block, whole.sum(axis=0)[me * n : (me + 1) * n])

        gathered = np.zeros((world, n * world), "i4")
        comm.all_gather(whole[me], gathered)
        np.testing.assert_array_equal(gathered, whole)
        gathered[:] = 0
        gathered[me] = whole[me]
        comm.all_gather(gathered[me], gathered)  # in place
        np.testing.assert_array_equal(gathered, whole)

        for root in range(world):
            gathered[:] = 0
            comm.gather(whole[me], gathered if me == root else None, root)
            assert (gathered == (whole if me == root else 0)).all()
            comm.scatter(whole[0] if me == root else None, block, root)
            np.testing.assert_array_equal(block, whole[0, me * n : (me + 1) * n])

        exchanged = np.zeros(n * world, "i4")
        comm.all_to_all(whole[me], exchanged)
        expected = np.concatenate([whole[rank, me * n : (me + 1) * n] for rank in range(world)])
        np.testing.assert_array_equal(exchanged, expected)
        comm.all_to_all(whole[me])
        np.testing.assert_array_equal(whole[me], expected)

    threads(world, body)


@pytest.mark.parametrize("world", WORLDS)
def test_blocks_of_their_own_lengths(world):
    def body(comm):
        me = comm.rank
        counts = [(rank * 7) % 4 for rank in range(world)]  # some are empty
        starts = np.concatenate([[0], np.cumsum(counts)])
        mine = np.full(counts[me], me, "u8")
        gathered = np.zeros(sum(counts), "u8")
        comm.all_gather(mine, gathered, counts)
        np.testing.assert_array_equal(gathered, np.repeat(np.arange(world), counts))

        whole = everybody(world, "f8", sum(counts))
        block = np.zeros(counts[me])
        comm.reduce_scatter(whole[me], block, counts=counts)
        np.testing.assert_array_equal(block, whole.sum(axis=0)[starts[me] : starts[me + 1]])

        send = [(me + 2 * rank) % 3 for rank in range(world)]
        recv = [(rank + 2 * me) % 3 for rank in range(world)]
        given = np.repeat(np.arange(world) * 100 + me, send).astype("i2")
        taken = np.zeros(sum(recv), "i2")
        comm.all_to_all(given, taken, send, recv)
        np.testing.assert_array_equal(taken, np.repeat(me * 100 + np.arange(world), recv))

    threads(world, body)


def test_messages_and_groups():
    def body(comm):
        right, left = (comm.rank + 1) % comm.world, (comm.rank - 1) % comm.world
        mine, theirs, own = np.full(50_000, comm.rank), np.zeros(50_000, int), np.zeros(50_000, int)
        total, doubled = np.ones(3), np.ones(3)
        with comm.group() as group:
            group.recv(theirs, left)
            group.send(mine, right)
            group.send(mine, comm.rank)
            group.recv(own, comm.rank)
            group.all_reduce(total)
            group.all_reduce(doubled, op=roundel.premul_sum(2.0))
        assert (theirs == left).all() and (own == comm.rank).all()
        assert (total == comm.world).all() and (doubled == 2 * comm.world).all()

        with pytest.raises(ZeroDivisionError):
            with comm.group() as group:
                group.all_reduce(total)
                raise ZeroDivisionError
        with pytest.raises(roundel.InvalidArgument, match="sends to this rank itself"):
            with comm.group() as group:
                group.all_reduce(total)
                group.send(mine, comm.rank)
        comm.barrier()
        assert (total == comm.world).all()  # neither group ran

        if comm.rank == 0:
            comm.send(np.arange(5.0), 1)
        elif comm.rank == 1:
            data = np.zeros(5)
            comm.recv(data, 0)
            np.testing.assert_array_equal(data, np.arange(5))

    threads(3, body)


def test_sendrecv():
    def body(comm):
        right, left = (comm.rank + 1) % comm.world, (comm.rank - 1) % comm.world
        mine, theirs = np.full(50_000, comm.rank), np.zeros(50_000, int)
        comm.sendrecv(mine, right, theirs, left)
        assert (theirs == left).all()
        comm.start.sendrecv(mine, left, theirs, right).wait()
        assert (theirs == right).all()
        comm.sendrecv(mine, comm.rank, theirs, comm.rank)
        assert (theirs == comm.rank).all()
        # Of different lengths, and complex: two lanes an element.
        given, taken = np.full(3 + comm.rank, 1j * comm.rank), np.zeros(3 + left, complex)
        total = np.ones(2)
        with comm.group() as group:
            group.sendrecv(given, right, taken, left)
            group.all_reduce(total)
        assert (taken == 1j * left).all() and (total == comm.world).all()
        with pytest.raises(roundel.InvalidArgument, match="input is of int64, the output of float64"):
            comm.sendrecv(mine, right, total, left)

    threads(3, body)


def test_explain():
    def body(comm):
        plan = comm.explain("all_reduce", 1 << 20)
        assert plan.startswith(f"staged over {comm.transport}, ") and f"\nrank {comm.rank}: " in plan, plan
        # The flat algorithm reads where others have mapped memory; elsewhere its staged form stands in.
        assert comm.explain("all_reduce", 1 << 20, mapped=True).startswith("flat over ")
        assert "copy   in" not in comm.explain("all_gather", 100, mapped=True, in_place=True)
        assert "copy   in" in comm.explain("all_gather", 100, mapped=True)
        # The type decides about the length; an operation counts only where one is used.
        assert comm.explain("all_reduce", 1 << 19, "float64") == plan
        assert comm.explain("all_reduce", 1 << 19, "complex64") == plan
        assert comm.explain("all_reduce", 1 << 20, op=roundel.premul_sum(3)) == plan
        assert comm.explain("broadcast", 1000, root=0) != comm.explain("broadcast", 1000, root=1)
        assert comm.explain("all_gather", 5, "bool", op="avg") == comm.explain("all_gather", 5, "int8")
        assert f"\nrank {comm.rank}: " in comm.explain("barrier", 0)
        for words, call in [
            ("expected one of all_reduce, ", lambda: comm.explain("allreduce", 1)),
            ("expected one of all_reduce, ", lambda: comm.explain(0, 1)),
            ("count=-1", lambda: comm.explain("all_reduce", -1)),
            ("count=1.5", lambda: comm.explain("all_reduce", 1.5)),
            ("root=2 in a world of 2", lambda: comm.explain("reduce", 1, root=2)),
            ("BIT_OR of float32", lambda: comm.explain("reduce", 1, op="bit_or")),
            ("overflow", lambda: comm.explain("all_gather", 2**62)),
        ]:
            with pytest.raises(roundel.InvalidArgument, match=words):
                call()
        comm.barrier()

    threads(2, body, algo="flat")


def test_split():
    def body(comm):
        part = comm.split(comm.rank % 2 if comm.rank < 4 else None, key=-comm.rank)
        if comm.rank == 4:
            assert part is None
            return
        with part:
            assert (part.world, part.rank) == (2, 1 - comm.rank // 2)
            data = np.full(3, comm.rank)
            part.all_reduce(data)
            assert (data == 2 * (comm.rank % 2) + 2).all()
        assert "closed" in repr(part)

    threads(5, body)


def test_subset():
    def body(comm):
        if comm.rank == 1:
            return
        with comm.subset([2, 0]) as part:
            assert (part.world, part.rank) == (2, 1 - comm.rank // 2)
            data = np.full(3, comm.rank)
            part.all_reduce(data)
            assert (data == 2).all()

    threads(3, body)


def test_mapped_memory():
    def body(comm):
        array = comm.empty_mapped((7, 1000), "f4")
        assert array.shape == (7, 1000) and not array.any()
        array[:] = comm.rank
        comm.all_reduce(array)
        assert (array == 3).all()
        mapped = comm.alloc(5, "int64")
        view = np.asarray(mapped)
        view[:] = comm.rank
        comm.all_reduce(mapped)
        assert (view == 3).all()
        assert comm.empty_mapped((0, 3)).shape == (0, 3)
        comm.barrier()
        return view, array[1]  # they outlive the communicator

    for view, row in threads(3, body):
        assert (view == 3).all() and (row == 3).all()
