"""The backend of torch.distributed, over processes that meet in a file store."""

import datetime
import signal
import time

import pytest

import roundel
from harness import PATIENCE_S, need, processes
from harness import run as run_processes

torch = need("torch")
import torch.distributed as dist  # noqa: E402

if not dist.is_available():
    pytest.skip("skipped: this torch has no torch.distributed", allow_module_level=True)

from torch.testing import assert_close  # noqa: E402

import roundel.torch  # noqa: E402

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


def _model():
    torch.manual_seed(7)
    return torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))


def _batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(12, 8, generator=generator), torch.randint(0, 4, (12,), generator=generator)


def _losses_alone():
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for step in range(4):
        inputs, labels = _batch(step)
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _train(model, rank, world):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for step in range(4):
        inputs, labels = (part.chunk(world)[rank] for part in _batch(step))
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean, dist.ReduceOp.AVG)
        losses.append(mean.item())
    return losses


@pytest.mark.parametrize("how", ["ddp", "ddp mapped", "ddp powersgd", "fsdp2", "fsdp2 mapped"])
def test_training_is_as_good_as_alone(how, tmp_path):
    def body(rank, world):
        from torch.nn.parallel import DistributedDataParallel

        model = _model()
        if how.startswith("ddp"):
            # Small buckets, so that there are several.
            model = DistributedDataParallel(model, bucket_cap_mb=0.001)
            if how == "ddp mapped":
                model.register_comm_hook(roundel.torch.MappedAllReduce(), roundel.torch.MappedAllReduce.hook)
            elif how == "ddp powersgd":
                from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as powersgd

                state = powersgd.PowerSGDState(None, matrix_approximation_rank=4, start_powerSGD_iter=2)
                model.register_comm_hook(state, powersgd.powerSGD_hook)
        else:
            from torch.distributed.fsdp import fully_shard

            for layer in model:
                if list(layer.parameters()):
                    fully_shard(layer)
            fully_shard(model)
            if how == "fsdp2 mapped":
                for module in model.modules():
                    if hasattr(module, "set_allocate_memory_from_process_group_for_comm"):
                        module.set_allocate_memory_from_process_group_for_comm(True)
        return _train(model, rank, world)

    if how == "fsdp2 mapped" and not hasattr(dist.ProcessGroup, "all_gather_single"):
        pytest.skip("skipped: this torch does not ask Python backends for memory")
    losses = run(2, tmp_path, body)
    assert losses[0] == losses[1]
    # PowerSGD is an approximation, once it begins.
    assert losses[0] == pytest.approx(_losses_alone(), rel=0.2 if how == "ddp powersgd" else 1e-5)


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


# --- errors ---


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
