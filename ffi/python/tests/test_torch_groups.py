"""Objects, subgroups and barriers."""

import datetime

import pytest

from torch_harness import dist, run, torch


def test_objects_subgroups_and_barriers(tmp_path):
    def body(rank, world):
        objects = [None] * world
        dist.all_gather_object(objects, {"rank": rank})
        assert objects == [{"rank": r} for r in range(world)]
        words = ["from", 1] if rank == 1 else [None, None]
        dist.broadcast_object_list(words, 1)
        assert words == ["from", 1]

        even = dist.new_group([0, 2])
        if rank in (0, 2):
            data = torch.ones(3) * rank
            dist.all_reduce(data, group=even)
            assert (data == 2).all()
            assert dist.get_rank(even) == rank // 2
            dist.destroy_process_group(even)
        dist.monitored_barrier(timeout=datetime.timedelta(seconds=60))
        dist.monitored_barrier(timeout=datetime.timedelta(seconds=60), wait_all_ranks=True)
        if rank == 0:
            with pytest.raises(dist.DistBackendError, match="Ranks 1, 2 failed to pass monitoredBarrier"):
                dist.monitored_barrier(timeout=datetime.timedelta(milliseconds=50), wait_all_ranks=True)
        dist.barrier()  # the group is none the worse for it
        assert dist.get_backend() == "roundel"

    run(3, tmp_path, body)
