"""Trains a small network with DistributedDataParallel and with FSDP2, once on backend gloo and once on roundel, and compares
losses and the time of the all-reduce.

    torchrun --nproc-per-node 2 examples/torch_ddp.py

The data are drawn here: ten shapes of digits, shifted and noisy, so that nothing has to be fetched.
"""

import argparse
import functools
import os
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import roundel.torch

# Seven-segment digits: which of the strokes top, top left, top right, middle, bottom left, bottom right, bottom are drawn.
STROKES = ["1110111", "0010010", "1011101", "1011011", "0111010", "1101011", "1101111", "1010010", "1111111", "1111011"]
PLACES = [
    (slice(1, 2), slice(2, 6)),
    (slice(1, 4), slice(1, 2)),
    (slice(1, 4), slice(6, 7)),
    (slice(4, 5), slice(2, 6)),
    (slice(4, 7), slice(1, 2)),
    (slice(4, 7), slice(6, 7)),
    (slice(7, 8), slice(2, 6)),
]


@functools.lru_cache
def digits(count, seed):
    """`count` pictures of 9 x 8 pixels, and what they show."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (count,), generator=generator)
    pictures = 0.3 * torch.randn(count, 9, 8, generator=generator)
    for picture, label in zip(pictures, labels):
        for stroke, (rows, columns) in zip(STROKES[label], PLACES):
            if stroke == "1":
                picture[rows, columns] += 1
    shifts = torch.randint(-1, 2, (count,), generator=generator)
    pictures = torch.stack([torch.roll(picture, int(shift), 0) for picture, shift in zip(pictures, shifts)])
    return pictures.flatten(1), labels


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(72, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def wrapped(how):
    model = network()
    if how == "fsdp2":
        for layer in model:
            if isinstance(layer, nn.Linear):
                fully_shard(layer)
        fully_shard(model)
        return model
    model = DistributedDataParallel(model)
    if how == "ddp, mapped gradients":
        model.register_comm_hook(roundel.torch.MappedAllReduce(), roundel.torch.MappedAllReduce.hook)
    return model


def train(how, steps):
    """The loss of every step, over all ranks, and the share of pictures that it reads right in the end."""
    rank, world = dist.get_rank(), dist.get_world_size()
    model = wrapped(how)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pictures, labels = digits(64 * steps, seed=2)
    losses = []
    for step in range(steps):
        mine = slice(64 * step + 64 // world * rank, 64 * step + 64 // world * (rank + 1))
        loss = nn.functional.cross_entropy(model(pictures[mine]), labels[mine])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(mean.item() / world)
    pictures, labels = digits(500, seed=3)
    with torch.no_grad():
        right = (model(pictures).argmax(1) == labels).float().mean().item()
    return losses, right


def microseconds(tensor, repeats):
    """Median time of an all-reduce of `tensor`."""
    times = []
    for _ in range(repeats):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(tensor)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] * 1e6


def on_backend(backend, steps):
    dist.init_process_group(backend)
    results = {how: train(how, steps) for how in ("ddp", "fsdp2")}
    sizes = {"8 B": (2, 200), "1 MiB": (1 << 18, 20), "16 MiB": (1 << 22, 5)}
    times = {name: microseconds(torch.ones(count), repeats) for name, (count, repeats) in sizes.items()}
    if backend == "roundel":
        results["ddp, mapped gradients"] = train("ddp, mapped gradients", steps)
        times["16 MiB, mapped"] = microseconds(roundel.torch.empty_mapped(1 << 22), 5)
    dist.destroy_process_group()
    return results, times


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=150)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    gloo, gloo_times = on_backend("gloo", steps)
    ours, our_times = on_backend("roundel", steps)
    if int(os.environ["RANK"]) != 0:
        return
    for how, (losses, right) in ours.items():
        reference, _ = gloo.get(how, gloo["ddp"])
        difference = max(abs(a - b) for a, b in zip(losses, reference))
        print(
            f"{how:<22} loss {losses[0]:.4f} -> {losses[-1]:.4f}, reads {right:.1%}, at most {difference:.1e} from gloo's losses"
        )
        assert difference < 1e-3, "the same training on another backend gives other losses"
        assert right > 0.9, "it has not learned to read"
    print(f"{'all_reduce':<22}{'gloo':>12}{'roundel':>12}   microseconds")
    for name, ours_us in our_times.items():
        theirs = f"{gloo_times[name]:12.1f}" if name in gloo_times else f"{'':>12}"
        print(f"{name:<22}{theirs}{ours_us:12.1f}")


if __name__ == "__main__":
    main()
