"""Messages between two ranks of a process group."""

import time

import pytest

from harness import run as run_processes
from torch_harness import assert_close, dist, ramp, run, start, torch


def test_messages(tmp_path):
    def body(rank, world):
        right, left = (rank + 1) % world, (rank - 1) % world
        theirs = torch.zeros(100_000)
        ops = [dist.P2POp(dist.irecv, theirs, left), dist.P2POp(dist.isend, torch.full((100_000,), float(rank)), right)]
        for work in dist.batch_isend_irecv(ops):
            work.wait()
        assert (theirs == left).all()

        if rank == 0:
            dist.send(ramp(0, 5), 1, tag=7)
            dist.send(ramp(1, 5), 1)
        elif rank == 1:
            data = torch.zeros(5)
            assert dist.recv(data, 0, tag=7) == 0
            assert_close(data, ramp(0, 5))
            # Who sent comes back also where anybody could have.
            assert dist.recv(data) == 0
            assert_close(data, ramp(1, 5))

        if rank == 2:
            seen = set()
            for _ in range(world - 1):
                data = torch.zeros(4)
                work = dist.irecv(data)
                work.wait()
                assert data[0] == work.source_rank()
                seen.add(work.source_rank())
            assert seen == {0, 1}
        else:
            dist.send(torch.full((4,), float(rank)), 2)

        mine = torch.zeros(3)
        works = [dist.irecv(mine, rank), dist.isend(ramp(5, 3), rank)]
        for work in works:
            assert work.wait()
        assert_close(mine, ramp(5, 3))

        if rank == 0:
            dist.send(ramp(0, 5), 1, tag=1)
        elif rank == 1:
            with pytest.raises(dist.DistBackendError, match="expected tag 2 from rank 0.*has tag 1"):
                dist.recv(torch.zeros(5), 0, tag=2)

    run(3, tmp_path, body)


def _leaves_with_an_open_receive(report, rank, world, path):
    start(path, rank, world)
    work = dist.irecv(torch.zeros(3), 1 - rank)
    before = time.monotonic()
    dist.destroy_process_group()
    assert time.monotonic() - before < 30  # the group's timeout is 60
    with pytest.raises(dist.DistBackendError, match="messages that nobody"):
        work.wait()


def test_a_receive_that_nobody_sends_for_does_not_keep_a_rank(tmp_path):
    run_processes(2, _leaves_with_an_open_receive, str(tmp_path / "store"))
