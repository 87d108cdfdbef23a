"""What torch.distributed makes of errors: on which ranks, naming whom, and that nothing hangs."""

import datetime
import signal
import time

import pytest

import roundel
from harness import PATIENCE_S, processes
from harness import run as run_processes
from torch_harness import dist, run, start, torch


def _mismatch(report, rank, world, path):
    start(path, rank, world)
    with pytest.raises(dist.DistBackendError) as caught:
        dist.all_reduce(torch.zeros(3 + rank))
    assert caught.value.operation == "all_reduce" and len(caught.value.ranks) == 2
    assert isinstance(caught.value.__cause__, roundel.Mismatch)
    with pytest.raises(dist.DistBackendError):
        dist.all_reduce(torch.zeros(3), async_op=True).wait()


def test_ranks_that_disagree_get_an_error_each(tmp_path):
    run_processes(3, _mismatch, str(tmp_path / "store"))


def _timeout(report, rank, world, path, lowered):
    start(path, rank, world, timeout_s=60 if lowered else 0.5)
    if rank == 1:
        # Takes no part, and stays until the others have had their error.
        with pytest.raises(dist.DistBackendError):
            deadline = time.monotonic() + PATIENCE_S
            while time.monotonic() < deadline:
                time.sleep(1)
                dist.barrier()
        return None
    if lowered:
        dist.group.WORLD.set_timeout(datetime.timedelta(seconds=0.5))
    with pytest.raises(dist.DistBackendError, match=" Timed out ") as caught:
        work = dist.all_reduce(torch.zeros(3), async_op=True)
        work.wait()
    assert isinstance(caught.value.__cause__, roundel.TimedOut)
    return caught.value.ranks


def test_timeouts_name_who_is_late(tmp_path):
    assert run_processes(2, _timeout, str(tmp_path / "store"), False) == [(1,), None]


def test_a_lowered_timeout_ends_the_group_too(tmp_path):
    assert run_processes(2, _timeout, str(tmp_path / "store"), True) == [(), None]


def _wait_timeout(rank, world):
    if rank == 0:
        data = torch.zeros(3)
        work = dist.irecv(data, 1)
        with pytest.raises(dist.DistBackendError, match="still in flight"):
            work.wait(datetime.timedelta(milliseconds=50))
        assert not work.is_completed()
        dist.barrier()
        assert work.wait() and (data == 1).all()
    else:
        dist.barrier()
        dist.send(torch.ones(3), 0)


def test_waiting_can_time_out_without_harm(tmp_path):
    run(2, tmp_path, _wait_timeout)


def _killed(report, rank, world, path):
    start(path, rank, world)
    dist.barrier()
    report("there")
    if rank == 2:
        signal.pause()
    work = dist.all_reduce(torch.zeros(1000), async_op=True)
    future = work.get_future()
    with pytest.raises(dist.DistBackendError) as caught:
        work.wait()
    with pytest.raises(RuntimeError):
        future.wait()
    assert isinstance(work.exception(), dist.DistBackendError) and not work.is_success()
    assert isinstance(caught.value.__cause__, roundel.PeerLost)
    return caught.value.ranks


def test_a_killed_rank_is_named_by_the_others(tmp_path):
    with processes(3, _killed, str(tmp_path / "store")) as ranks:
        for rank in ranks:
            assert rank.next() == "there"
        ranks[2].kill(signal.SIGKILL)
        assert [ranks[0].next(), ranks[1].next()] == [(2,), (2,)]


def test_bad_arguments_leave_the_group_usable(tmp_path):
    def body(rank, world):
        for words, call in [
            ("moved, not reduced", lambda: dist.all_reduce(torch.zeros(3, dtype=torch.int16))),
            ("do not make 2 equal splits", lambda: dist.all_to_all_single(torch.zeros(3), torch.zeros(2), [], [1, 1])),
            ("add up to the dimension", lambda: dist.all_to_all_single(torch.zeros(2), torch.zeros(2), [1, 1], [1, 2])),
            ("device memory", lambda: dist.group.WORLD.allreduce([torch.zeros(2, device="meta")])),
        ]:
            with pytest.raises(roundel.RoundelError, match=words):
                call()
        data = torch.ones(3)
        dist.all_reduce(data)
        assert (data == 2).all()

    run(2, tmp_path, body)
