"""Errors: what they carry, on which ranks, and that nothing hangs."""

import os
import pickle
import signal
import time

import numpy as np
import pytest

import roundel
from harness import PATIENCE_S, job, join, processes, run, threads  # noqa: F401


def test_a_mismatch_names_ranks_and_call_on_every_rank():
    def body(comm):
        with pytest.raises(roundel.Mismatch) as caught:
            comm.barrier()  # a slow rank may hear of the others' disagreement in here
            comm.all_reduce(np.zeros(3 if comm.rank else 4))
        error = caught.value
        assert len(error.ranks) == 2 and error.operation == "all_reduce" and error.sequence == 1
        assert "count 3" in str(error) and "count 4" in str(error)
        with pytest.raises(roundel.Mismatch):
            comm.check()
        with pytest.raises(roundel.Mismatch):
            comm.barrier()

    threads(3, body)


def test_a_timeout_names_who_is_late():
    def body(comm):
        if comm.rank == 1:
            # Takes part in nothing, and learns of it.
            with pytest.raises(roundel.RoundelError):
                for _ in range(int(PATIENCE_S * 100)):
                    comm.check()
                    time.sleep(0.01)
            return
        with pytest.raises(roundel.TimedOut) as caught:
            comm.all_reduce(np.zeros(3))
        assert caught.value.ranks == (1,) and caught.value.operation == "all_reduce" and caught.value.sequence == 0
        assert isinstance(caught.value, TimeoutError) and isinstance(caught.value, RuntimeError)

    threads(2, body, timeout_ms=300)


def test_abort_reaches_calls_and_works_with_its_reason():
    def body(comm):
        if comm.rank == 0:
            work = comm.start.recv(np.zeros(3), 1)
            comm.abort("the test says so")
            with pytest.raises(roundel.Aborted, match="the test says so") as caught:
                work.wait()
            assert caught.value.ranks == (0,)
            assert isinstance(work.error(), roundel.Aborted) and "failed" in repr(work)
        else:
            with pytest.raises(roundel.Aborted, match="the test says so"):
                comm.recv(np.zeros(3), 0)

    threads(2, body)


def test_an_exception_in_the_block_frees_the_others():
    def body(comm):
        if comm.rank == 0:
            raise ZeroDivisionError
        with pytest.raises(roundel.RoundelError):
            comm.barrier()

    with pytest.raises(ZeroDivisionError):
        threads(3, body)


def test_errors_travel():
    facts = {
        "ranks": (1, 2),
        "rank": 0,
        "operation": "barrier",
        "sequence": 7,
        "progress": (3, 8),
        "buffer": "undefined",
    }
    error = roundel.TimedOut("late", **facts)
    for other in (pickle.loads(pickle.dumps(error)), error.copy()):
        assert (type(other), str(other)) == (roundel.TimedOut, "late")
        assert {fact: getattr(other, fact) for fact in facts} == facts


# --- in processes ---


def _die(report, rank, world):
    comm = join(rank, world)
    report("there")
    if rank == 1:
        signal.pause()
    try:
        comm.all_reduce(np.zeros(1000))
    except roundel.PeerLost as error:
        return error.ranks, error.operation, error.sequence


def test_a_killed_rank_is_named_by_the_others(job):  # noqa: F811
    with processes(3, _die, environment=job) as ranks:
        for rank in ranks:
            assert rank.next() == "there"
        ranks[1].kill(signal.SIGKILL)
        for rank in (ranks[0], ranks[2]):
            # A death that is noticed before the call begins belongs to no call.
            assert rank.next() in (((1,), "all_reduce", 0), ((1,), None, None))


def _cut(report, rank, world, in_place):
    comm = join(rank, world)
    data = np.full(1 << 20, rank + 1.0)
    into = None if in_place else np.empty_like(data)
    report("there")
    before = data.copy()
    try:
        while True:
            comm.all_reduce(data, into, op="max")
            if in_place:
                data[:] = before
    except roundel.PeerLost as error:
        if error.buffer == "intact":
            np.testing.assert_array_equal(data, before)
        assert error.buffer == "intact" or in_place
        assert error.progress is None or 0 <= error.progress[0] <= error.progress[1]
        with pytest.raises(roundel.PeerLost) as refused:
            comm.all_reduce(data)
        assert refused.value.buffer == "intact" and refused.value.progress is None
        return error.buffer, error.progress is not None


@pytest.mark.parametrize("in_place", [False, True])
def test_an_error_says_what_is_left_of_the_data(job, in_place):  # noqa: F811
    with processes(3, _cut, in_place, environment=job) as ranks:
        for rank in ranks:
            assert rank.next() == "there"
        ranks[1].kill(signal.SIGKILL)
        for rank in (ranks[0], ranks[2]):
            state, began = rank.next()
            assert state == "intact" or (in_place and began)


def _interrupted(report, rank, world, how):
    comm = join(rank, world)
    report("there")
    if rank == 1:
        # Never takes part; the other rank's end is all that happens to it.
        try:
            while True:
                comm.check()
                time.sleep(0.01)
        except roundel.RoundelError as error:
            return type(error).__name__
    try:
        if how == "blocking":
            comm.all_reduce(np.zeros(1000))
        elif how == "waiting":
            comm.start.all_reduce(np.zeros(1000)).wait()
        else:
            work = comm.start.all_reduce(np.zeros(1000))
            comm.close()
            work.wait()
    except KeyboardInterrupt:
        if how == "waiting":
            comm.abort("interrupted")
        return "KeyboardInterrupt"


@pytest.mark.parametrize("how", ["blocking", "waiting", "closing"])
def test_ctrl_c_ends_a_call(job, how):  # noqa: F811
    with processes(2, _interrupted, how, environment=job) as ranks:
        for rank in ranks:
            assert rank.next() == "there"
        # Wherever it hits, inside the call or just before: it is the test's word that it is noticed.
        time.sleep(0.3)
        ranks[0].kill(signal.SIGINT)
        assert ranks[0].next() == "KeyboardInterrupt"
        assert ranks[1].next() == "Aborted"


def _forked(report, rank, world):
    with join(rank, world) as comm:
        child = os.fork()
        if child == 0:
            try:
                comm.barrier()
            except roundel.InvalidArgument as error:
                os._exit(0 if "forked" in str(error) else 2)
            os._exit(1)
        status = os.waitpid(child, 0)[1]
        comm.barrier()  # the parent is none the worse for it
        return os.waitstatus_to_exitcode(status)


def test_a_forked_child_has_no_communicator(job):  # noqa: F811
    assert run(2, _forked, environment=job) == [0, 0]


KEPT = []


def _leaves(report, rank, world, how):
    comm = join(rank, world)
    if rank == 0:
        if how == "kept":
            KEPT.append(comm)
        return comm.transport  # and ends without closing
    try:
        comm.barrier()
    except roundel.PeerLost as error:
        assert "left" in str(error), error
        return error.ranks


@pytest.mark.parametrize("how", ["kept", "forgotten"])
def test_a_process_that_ends_says_goodbye(job, how):  # noqa: F811
    assert run(2, _leaves, how, environment=job) == ["shm", (0,)]


def _missing(report, rank, world):
    if rank == 1:
        return None
    with pytest.raises(roundel.InitializationError) as caught:
        join(rank, world, init_timeout_ms=300)
    return caught.value.ranks


def test_who_does_not_turn_up_is_named(job):  # noqa: F811
    assert run(2, _missing, environment=job) == [(1,), None]


def _collective(report, rank, world):
    with join(rank, world) as comm:
        assert (comm.rank, comm.world) == (rank, world)
        data = np.arange(1000.0) * (rank + 1)
        comm.all_reduce(data)
        np.testing.assert_array_equal(data, np.arange(1000.0) * sum(range(1, world + 1)))
        mapped = comm.empty_mapped(3000)
        mapped[:] = rank
        comm.all_reduce(mapped, op="max")
        assert (mapped == world - 1).all()
        assert comm.hosts == [list(range(world))]
    return "done"


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes(job, world):  # noqa: F811
    assert run(world, _collective, environment=job) == ["done"] * world


def test_processes_over_sockets(job):  # noqa: F811
    def body(report, rank, world):
        with join(rank, world) as comm:
            data = np.ones(100_000)
            comm.all_reduce(data)
            return comm.transport, float(data[-1])

    assert run(2, body, environment={**job, "ROUNDEL_TRANSPORT": "tcp"}) == [("tcp", 2.0)] * 2
