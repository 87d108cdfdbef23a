"""What detector, signatures and checks cost where nothing goes wrong: two builds of `all_reduce_perf` in turns.

    cargo build --release --bin all_reduce_perf --target-dir target/watched
    RUSTFLAGS="--cfg roundel_bare" cargo build --release --bin all_reduce_perf --target-dir target/bare
    python3 benches/overhead.py target/watched/release/all_reduce_perf target/bare/release/all_reduce_perf

The bare build compares no calls, looks at no failure while it waits and counts no progress, and runs without heartbeats. Each round runs
every case with one build and then with the other, and the order changes from round to round. A launch's figure is the median of its
iterations (nccl-tests' place of measurement: rank 0, in place, the average over ranks); printed are the median over rounds of each build, and
of the difference and the ratio within a round, with the quarter and three-quarter points of the ratio. Two names for one program show what
the machine does by itself: run it with the same binary twice.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

CASES = [(transport, ranks, size) for transport in ("shm", "tcp") for ranks in (2, 4) for size in ("8", "1M")]
ITERATIONS = {("shm", "8"): 20_000, ("shm", "1M"): 200, ("tcp", "8"): 3_000, ("tcp", "1M"): 100}


def measured_us(binary, is_bare, transport, ranks, size):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROUNDEL_")}
    environment["ROUNDEL_TRANSPORT"] = transport
    environment["ROUNDEL_TUNE"] = "0"
    if is_bare:
        environment["ROUNDEL_HEARTBEAT_MS"] = "0"
    iterations = ITERATIONS[transport, size]
    command = [binary, "--procs", str(ranks), "-b", size, "-e", size, "-n", str(iterations), "-w", str(iterations // 4)]
    done = subprocess.run([*command, "-c", "0", "--json"], env=environment, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    (time,) = [row["time_us_median"] for row in rows if row["in_place"]]
    return time


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("watched")
    arguments.add_argument("bare")
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--only", help="cases whose name has this in it, as in `shm 2 8`")
    asked = arguments.parse_args()
    cases = [case for case in CASES if not asked.only or asked.only in " ".join(map(str, case))]
    times = {case: ([], []) for case in cases}
    for round in range(asked.rounds):
        for case in cases:
            builds = [(0, asked.watched, False), (1, asked.bare, True)]
            for at, binary, is_bare in builds if round % 2 == 0 else reversed(builds):
                times[case][at].append(measured_us(binary, is_bare, *case))
        print(f"round {round + 1} of {asked.rounds}", file=sys.stderr)
    print("| transport | ranks | size | watched, us | bare, us | difference, us | ratio (quartiles) |")
    print("|---|---|---|---|---|---|---|")
    for (transport, ranks, size), (watched, bare) in times.items():
        ratios = [one / other for one, other in zip(watched, bare)]
        low, _, high = statistics.quantiles(ratios, n=4)
        print(
            f"| {transport} | {ranks} | {size} | {statistics.median(watched):.3f} | {statistics.median(bare):.3f}"
            f" | {statistics.median([one - other for one, other in zip(watched, bare)]):+.3f}"
            f" | {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f}) |"
        )


main()
