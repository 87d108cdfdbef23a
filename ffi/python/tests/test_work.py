"""Calls that go on by themselves."""

import gc
import threading
import time
import weakref

import numpy as np
import pytest

import roundel
from harness import threads
from roundel import work as works


class Array(np.ndarray):
    """An array that can be watched."""


def watched(count):
    return np.ones(count).view(Array)


def test_every_call_can_be_started():
    def body(comm):
        me, n, w = comm.rank, comm.world, comm.start
        a, b, big = np.full(5, me, "i8"), np.zeros(5, "i8"), np.zeros(5 * n, "i8")
        w.all_reduce(a, b).wait()
        assert (b == 3).all()
        w.reduce(a, b, 1).wait()
        w.broadcast(b, 1).wait()
        assert (b == 3).all()
        w.all_gather(a, big).wait()
        np.testing.assert_array_equal(big, np.repeat([0, 1, 2], 5))
        w.reduce_scatter(big, b).wait()
        assert (b == 3 * me).all()
        big[:] = 0
        w.gather(a, big if me == 2 else None, 2).wait()
        assert big.sum() == (15 if me == 2 else 0)
        w.scatter(big if me == 2 else None, b, 2).wait()
        assert (b == me).all()
        big[:] = me
        w.all_to_all(big).wait()
        np.testing.assert_array_equal(big, np.repeat([0, 1, 2], 5))
        messages = [w.recv(b, (me - 1) % n), w.send(a, (me + 1) % n)]
        assert all(message.wait() for message in messages)
        assert (b == (me - 1) % n).all()
        w.barrier().wait()
        group = comm.group()
        group.all_reduce(a)
        group.all_reduce(b)
        with group.start():
            pass
        assert (a == 3).all() and (b == 3).all()
        premultiplied = np.ones(3)
        w.all_reduce(premultiplied, op=roundel.premul_sum(me)).wait()
        assert (premultiplied == 3).all()

    threads(3, body)


def test_work_waits_goes_on_and_ends():
    go = threading.Event()

    def body(comm):
        if comm.rank == 1:
            assert go.wait(60)
            comm.start.barrier().wait()
            return
        work = comm.start.barrier()
        assert not work.done() and work.error() is None and "in flight" in repr(work)
        before = time.monotonic()
        assert work.wait(timeout=0.05) is False
        assert 0.04 < time.monotonic() - before < 30
        go.set()
        assert work.wait() is True and work.wait(0) is True and work.done()
        assert "ended" in repr(work)

    threads(2, body)


def test_the_lock_of_the_interpreter_is_free_while_a_call_waits():
    """All ranks in one interpreter would deadlock otherwise: what the late rank does happens while the other is inside C."""
    steps = []

    def body(comm):
        if comm.rank == 0:
            comm.barrier()
        else:
            for step in range(1000):
                steps.append(step)
            comm.barrier()

    threads(2, body)
    assert len(steps) == 1000


def test_many_works_in_flight_from_several_threads():
    def body(comm):
        data = [np.full(1000, comm.rank, "f4") for _ in range(50)]
        started = [comm.start.all_reduce(array) for array in data]
        waiters = [threading.Thread(target=lambda: [work.wait() for work in started]) for _ in range(3)]
        for waiter in waiters:
            waiter.start()
        for waiter in waiters:
            waiter.join()
        assert all((array == 1).all() for array in data)

    threads(2, body)


def test_forgotten_work_keeps_its_buffers_until_it_has_ended():
    go, seen = threading.Event(), []

    def body(comm):
        if comm.rank == 1:
            assert go.wait(60)
            data = np.zeros(4)
            comm.recv(data, 0)
            assert (data == 1).all()
            return
        # Larger than a link holds, so that it waits for the receiver.
        data = watched(4)
        big = watched(1 << 20)
        gone = weakref.ref(data), weakref.ref(big)
        comm.start.send(data, 1)
        late = comm.start.recv(big, 1)
        del data, big, late
        gc.collect()
        seen.append(gone[1]() is not None)
        go.set()

    # The receive never meets a sender; leaving the communicator ends it.
    with pytest.raises((roundel.RoundelError, AssertionError)):
        threads(2, lambda comm: (body(comm), comm.abort("over") if comm.rank == 0 else None, comm.barrier()))
    assert seen == [True]
    deadline = time.monotonic() + 60
    while works.in_flight() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert works.in_flight() == 0


def test_a_failed_start_starts_nothing():
    def body(comm):
        with pytest.raises(roundel.InvalidArgument):
            comm.start.all_reduce(np.zeros(3), np.zeros(4))
        with pytest.raises(roundel.InvalidArgument, match="message of its own"):
            comm.start.recv(np.zeros(3), comm.rank)
        comm.barrier()

    threads(2, body)
