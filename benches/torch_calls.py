"""What a small call costs on torch.distributed: gloo and roundel in turns, in one run.

    torchrun --nproc-per-node 2 benches/torch_calls.py

Each number is the median over rounds of the mean time of a call, in microseconds, on rank 0. A world of one is the cost of the call
itself: front end, binding, checks.
"""

import statistics
import time

import numpy as np
import torch
import torch.distributed as dist

import roundel
import roundel.torch

ROUNDS, CALLS = 15, 200


def mean_us(call, calls):
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls * 1e6


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    everybody = list(range(world))
    groups = {backend: dist.new_group(everybody, backend=backend) for backend in ("gloo", "roundel")}
    alone = {b: [dist.new_group([r], backend=b) for r in everybody][rank] for b in ("gloo", "roundel")}
    id = [bytes(roundel.UniqueId()) if rank == 0 else None]
    dist.broadcast_object_list(id)
    comm = roundel.Communicator.init(roundel.UniqueId(id[0]), rank, world)

    cases = {}
    for backend in ("gloo", "roundel"):
        for name, group in ((f"{world} ranks", groups[backend]), ("1 rank", alone[backend])):
            for count, size in ((2, "8 B"), (1 << 15, "128 KiB"), (1 << 18, "1 MiB")):
                if count > 2 and group is alone[backend]:
                    continue
                data = torch.ones(count)
                call = lambda data=data, group=group: dist.all_reduce(data, group=group)  # noqa: E731
                cases[f"dist.all_reduce, {size}, {name}", backend] = call, max(10, CALLS // count.bit_length())

            def started(data=torch.ones(2), group=group):  # noqa: B006, B008
                dist.all_reduce(data, group=group, async_op=True).wait()

            cases[f"dist.all_reduce, 8 B, {name}, async and wait", backend] = started, CALLS
        cases["dist.barrier", backend] = (lambda group=groups[backend]: dist.barrier(group=group)), CALLS
    array = np.ones(2, np.float32)
    cases[f"Communicator.all_reduce, 8 B, NumPy, {world} ranks", "roundel"] = (lambda: comm.all_reduce(array)), CALLS

    times = {case: [] for case in cases}
    for _ in range(ROUNDS + 2):
        for case, (call, calls) in cases.items():
            comm.barrier()
            times[case].append(mean_us(call, calls))
    if rank == 0:
        print(f"| microseconds | {' | '.join(groups)} |\n|---|---|---|")
        for name in dict.fromkeys(name for name, _ in cases):
            row = [times.get((name, backend), [])[2:] for backend in groups]
            print(f"| {name} | {' | '.join(f'{statistics.median(t):.1f}' if t else '' for t in row)} |")
    comm.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
