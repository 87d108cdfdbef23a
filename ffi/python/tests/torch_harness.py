"""Ranks of torch.distributed, which are processes that meet in a file store. Its importers are skipped where there is no torch."""

import datetime

import pytest

from harness import need
from harness import run as run_processes

torch = need("torch")
import torch.distributed as dist  # noqa: E402

if not dist.is_available():
    pytest.skip("skipped: this torch has no torch.distributed", allow_module_level=True)

from torch.testing import assert_close  # noqa: E402

import roundel.torch  # noqa: E402, F401  (registers the backend)

__all__ = ["assert_close", "dist", "ramp", "run", "start", "sum_of", "torch"]

#: As many as anything here could use on a small machine.
torch.set_num_threads(1)


def start(path, rank, world, timeout_s=60.0):
    timeout = datetime.timedelta(seconds=timeout_s)
    dist.init_process_group("roundel", store=dist.FileStore(path, world), rank=rank, world_size=world, timeout=timeout)


def _in_group(report, rank, world, path, body, *arguments):
    start(path, rank, world)
    result = body(rank, world, *arguments)
    dist.destroy_process_group()
    return result


def run(world, tmp_path, body, *arguments):
    return run_processes(world, _in_group, str(tmp_path / "store"), body, *arguments)


def ramp(rank, *shape, dtype=torch.float32):
    return (torch.arange(torch.Size(shape).numel(), dtype=torch.float64).view(shape) % 7 + rank).to(dtype)


def sum_of(world, *shape, dtype=torch.float32):
    return sum(ramp(rank, *shape, dtype=torch.float64) for rank in range(world)).to(dtype)
