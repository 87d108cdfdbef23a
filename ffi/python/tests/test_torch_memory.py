"""Tensors in memory that the other ranks can reach."""

import roundel
from torch_harness import dist, run, start, torch


def test_mapped_tensors(tmp_path):
    def body(rank, world):
        data = roundel.torch.empty_mapped(3, 4, dtype=torch.float64)
        assert data.shape == (3, 4) and not data.any()
        data += rank
        view = data[1]
        dist.all_reduce(data)
        assert (view == 1).all()
        assert roundel.torch.empty_mapped((2, 0)).shape == (2, 0)
        assert roundel.torch.empty_mapped(5, dtype=torch.bfloat16).dtype == torch.bfloat16
        dist.barrier()
        dist.destroy_process_group()
        assert (view == 1).all()  # it outlives its group
        start(str(tmp_path / "again"), rank, world)

    run(2, tmp_path, body)
