"""The collectives of torch.distributed, by every way that leads to them."""

import pytest

import roundel
from torch_harness import assert_close, dist, ramp, run, sum_of, torch


@pytest.mark.parametrize("world", [2, 5, 8])
def test_collectives(world, tmp_path):
    def body(rank, world):
        for async_op in (False, True):

            def done(work):
                assert (work is not None) == async_op
                if async_op:
                    assert work.wait() and work.is_completed() and work.is_success() and work.exception() is None

            for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.complex64):
                data = ramp(rank, 3, 5, dtype=dtype)
                done(dist.all_reduce(data, async_op=async_op))
                assert_close(data, sum_of(world, 3, 5, dtype=dtype))
            data = ramp(rank, 4)
            done(dist.all_reduce(data, dist.ReduceOp.AVG, async_op=async_op))
            assert_close(data, sum_of(world, 4) / world)

            data = ramp(rank, 4)
            done(dist.broadcast(data, world - 1, async_op=async_op))
            assert_close(data, ramp(world - 1, 4))
            data = ramp(rank, 4)
            done(dist.reduce(data, 1, async_op=async_op))
            if rank == 1:
                assert_close(data, sum_of(world, 4))

            into = torch.zeros(world, 4)
            done(dist.all_gather_into_tensor(into, ramp(rank, 4), async_op=async_op))
            assert_close(into, torch.stack([ramp(r, 4) for r in range(world)]))
            parts = [torch.zeros(4) for _ in range(world)]
            done(dist.all_gather(parts, ramp(rank, 4), async_op=async_op))
            assert_close(torch.stack(parts), into)
            uneven = [torch.zeros(r + 1) for r in range(world)]
            done(dist.all_gather(uneven, ramp(rank, rank + 1), async_op=async_op))
            for r in range(world):
                assert_close(uneven[r], ramp(r, r + 1))

            block = torch.zeros(4)
            done(dist.reduce_scatter_tensor(block, ramp(rank, world, 4), async_op=async_op))
            assert_close(block, sum_of(world, world, 4)[rank])
            block = torch.zeros(4)
            done(dist.reduce_scatter(block, [row.clone() for row in ramp(rank, world, 4)], async_op=async_op))
            assert_close(block, sum_of(world, world, 4)[rank])

            parts = [torch.zeros(4) for _ in range(world)] if rank == 0 else None
            done(dist.gather(ramp(rank, 4), parts, 0, async_op=async_op))
            if rank == 0:
                assert_close(torch.stack(parts), into)
            done(dist.scatter(block, [ramp(r, 4) for r in range(world)] if rank == 1 else None, 1, async_op=async_op))
            assert_close(block, ramp(rank, 4))

            swapped = torch.zeros(world, 2)
            done(dist.all_to_all_single(swapped, ramp(rank, world, 2), async_op=async_op))
            assert_close(swapped, torch.stack([ramp(r, world, 2)[rank] for r in range(world)]))
            send, recv = [(rank + r) % 3 for r in range(world)], [(rank + r) % 3 for r in range(world)]
            swapped = torch.zeros(sum(recv), 2)
            done(
                dist.all_to_all_single(swapped, torch.full((sum(send), 2), float(rank)), recv, send, async_op=async_op)
            )
            assert_close(swapped[:, 1], torch.repeat_interleave(torch.arange(float(world)), torch.tensor(recv)))
            into = [torch.zeros(3) for _ in range(world)]
            done(
                dist.all_to_all(into, [torch.full((3,), float(10 * rank + r)) for r in range(world)], async_op=async_op)
            )
            assert [part[0].item() for part in into] == [10 * r + rank for r in range(world)]
            done(dist.barrier(async_op=async_op))

    run(world, tmp_path, body)


def test_tensors_that_are_not_dense(tmp_path):
    def body(rank, world):
        for async_op in (False, True):
            whole = ramp(rank, 4, 6)
            work = dist.all_reduce(whole[:, 1:3], async_op=async_op)
            if work:
                work.wait()
            expected = ramp(rank, 4, 6)
            expected[:, 1:3] = sum_of(world, 4, 6)[:, 1:3]
            assert_close(whole, expected)
            images = ramp(rank, 2, 3, 4, 4).to(memory_format=torch.channels_last)
            dist.broadcast(images, 0)
            assert_close(images, ramp(0, 2, 3, 4, 4).to(memory_format=torch.channels_last))
            gathered = torch.zeros(5, world).t()
            dist.all_gather_into_tensor(gathered, ramp(rank, 10)[::2])
            assert_close(gathered, torch.stack([ramp(r, 10)[::2] for r in range(world)]))
        # Chunks of one tensor are used where they are; a parameter may be a target.
        whole = torch.zeros(world * 3)
        dist.all_gather(list(whole.chunk(world)), ramp(rank, 3))
        assert_close(whole, torch.cat([ramp(r, 3) for r in range(world)]))
        parameter = torch.nn.Parameter(ramp(rank, 3))
        dist.broadcast(parameter, 1)
        assert_close(parameter.data, ramp(1, 3))

    run(3, tmp_path, body)


def test_sparse_sums(tmp_path):
    def body(rank, world):
        for values in (torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 5.0], [2.0, 6.0]])):
            # Rank 2 has nothing to give.
            indices = torch.tensor([[rank, rank + 1]])[:, : 0 if rank == 2 else 2]
            shape = (6, *values.shape[1:])
            data = torch.sparse_coo_tensor(indices, values[: indices.shape[1]], shape)
            dist.all_reduce(data)
            expected = torch.zeros(shape)
            for r in range(2):
                expected[r] += values[0]
                expected[r + 1] += values[1]
            assert_close(data.to_dense(), expected)
        with pytest.raises(roundel.Unsupported, match="summed"):
            dist.all_reduce(data, dist.ReduceOp.MAX)

    run(3, tmp_path, body)


def test_futures_may_start_calls_and_wait_for_them(tmp_path):
    def body(rank, world):
        # One at a time: ranks complete futures when they like, and the inner calls must have the same order everywhere.
        for _ in range(3):
            future = dist.all_reduce(torch.ones(10), async_op=True).get_future()
            nested = future.then(lambda done: dist.all_reduce(done.value()[0], async_op=True).get_future().wait()[0])
            assert (nested.wait() == world**2).all()

    run(2, tmp_path, body)


def test_coalescing_and_functional_collectives(tmp_path):
    def body(rank, world):
        import torch.distributed._functional_collectives as functional

        with dist._coalescing_manager(async_ops=True) as manager:
            data = [ramp(rank, n) for n in (3, 1000, 1)]
            for tensor in data:
                dist.all_reduce(tensor)
        manager.wait()
        for tensor in data:
            assert_close(tensor, sum_of(world, tensor.numel()))
        with dist._coalescing_manager():
            pairs = [(torch.zeros(world * n), ramp(rank, n)) for n in (2, 5)]
            for into, given in pairs:
                dist.all_gather_into_tensor(into, given)
        for into, given in pairs:
            assert_close(into, torch.cat([ramp(r, given.numel()) for r in range(world)]))
        with dist._coalescing_manager(device=torch.device("cpu")):
            dist.broadcast(data[0], 0)
            dist.barrier()

        group = dist.group.WORLD
        assert_close(functional.all_reduce(ramp(rank, 6), "sum", group) + 0, sum_of(world, 6))
        assert_close(
            functional.all_gather_tensor(ramp(rank, 2), 0, group) + 0, torch.cat([ramp(r, 2) for r in range(world)])
        )
        scattered = functional.reduce_scatter_tensor(ramp(rank, world * 2), "sum", 0, group) + 0
        assert_close(scattered, sum_of(world, world * 2).view(world, 2)[rank])
        swapped = functional.all_to_all_single(ramp(rank, world), None, None, group) + 0
        assert_close(swapped, torch.stack([ramp(r, world)[rank] for r in range(world)]))

        def doubled(tensor):
            dist.all_reduce(tensor)
            return functional.all_reduce(tensor, "sum", group) + 0

        compiled = torch.compile(doubled, fullgraph=True, backend="aot_eager")
        assert_close(compiled(ramp(rank, 6)), world * sum_of(world, 6))

        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Replicate, Shard, distribute_tensor

        mesh = init_device_mesh("cpu", (world,))
        whole = ramp(0, 8, 4)
        sharded = distribute_tensor(whole, mesh, [Shard(0)])
        assert_close(sharded.redistribute(mesh, [Replicate()]).to_local(), whole)
        assert_close((sharded.t() @ sharded).redistribute(mesh, [Replicate()]).to_local(), whole.t() @ whole)
        assert sharded.redistribute(mesh, [Shard(1)]).to_local().shape == (8, 4 // world)

    run(2, tmp_path, body)
