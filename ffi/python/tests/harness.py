"""Ranks for tests: as threads of this process, or as processes of their own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from multiprocessing.connection import Connection, wait
from typing import Any, Callable, Dict, Iterator, List, NoReturn, Optional

import pytest

import roundel

#: Longer than anything here takes on a loaded machine; shorter than anybody's patience.
PATIENCE_S = 90.0


def need(module: str) -> Any:
    """Imports what a test needs beyond this package. It skips where that is missing, or fails if `ROUNDEL_TEST_REQUIRE` names it."""
    if module in os.environ.get("ROUNDEL_TEST_REQUIRE", "").split(","):
        return __import__(module)
    return pytest.importorskip(module, reason=f"skipped: {module} is not installed")


def threads(world: int, body: Callable[[roundel.Communicator], Any], **settings: Any) -> List[Any]:
    """What `body` gives on each of `world` ranks, which are threads. The first exception of a rank is raised."""
    comms = roundel.Communicator.threads(world, **settings)
    results: List[Any] = [None] * world
    errors: List[Optional[BaseException]] = [None] * world

    def run(comm: roundel.Communicator) -> None:
        try:
            with comm:
                results[comm.rank] = body(comm)
        except BaseException as error:
            errors[comm.rank] = error

    running = [threading.Thread(target=run, args=(comm,), daemon=True) for comm in comms]
    deadline = time.monotonic() + PATIENCE_S
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), f"a rank is still running after {PATIENCE_S:.0f} s"
    # A rank that failed makes the others fail with it; its own error is the one that is no news from elsewhere.
    for error in sorted(filter(None, errors), key=lambda error: isinstance(error, (roundel.Aborted, roundel.PeerLost))):
        raise error
    return results


class Rank:
    """A process that is one rank."""

    def __init__(self, process: Any, results: Connection) -> None:
        self.process = process
        self._results = results
        self.events: List[Any] = []

    def next(self) -> Any:
        """What the rank reports next."""
        assert wait([self._results], PATIENCE_S), "a rank reports nothing"
        kind, value = self._results.recv()
        if kind == "failed":
            pytest.fail(f"rank {self.process.name}:\n{value}")
        return value

    def kill(self, signal_number: int) -> None:
        os.kill(self.process.pid, signal_number)


class Reporter:
    """A rank's end of the line to the test."""

    def __init__(self, line: Connection) -> None:
        self._line = line

    def __call__(self, value: Any) -> None:
        self._line.send(("said", value))


@contextlib.contextmanager
def processes(
    world: int, body: Callable[..., Any], *arguments: Any, environment: Optional[Dict[str, str]] = None
) -> Iterator[List[Rank]]:
    """`world` processes that run `body(report, rank, world, *arguments)`; what `body` returns is reported last. They do not outlive
    the block."""
    ranks: List[Rank] = []
    try:
        for _ in range(world):
            another(ranks, body, *arguments, environment=environment, world=world)
        yield ranks
    finally:
        for rank in ranks:
            if rank.process.is_alive():
                rank.process.kill()
            rank.process.join()


def another(
    ranks: List[Rank],
    body: Callable[..., Any],
    *arguments: Any,
    environment: Optional[Dict[str, str]] = None,
    world: int = 0,
) -> None:
    """Starts one process more, inside the block of :func:`processes`."""
    fork = multiprocessing.get_context("fork")
    mine, theirs = fork.Pipe(duplex=False)
    rank = len(ranks)
    process = fork.Process(
        target=_child,
        args=(theirs, body, rank, world, arguments, environment or {}),
        name=str(rank),
        daemon=True,
    )
    process.start()
    theirs.close()
    ranks.append(Rank(process, mine))


def run(
    world: int, body: Callable[..., Any], *arguments: Any, environment: Optional[Dict[str, str]] = None
) -> List[Any]:
    """What each of the processes reports."""
    with processes(world, body, *arguments, environment=environment) as ranks:
        said = [rank.next() for rank in ranks]
        for rank in ranks:
            rank.process.join(PATIENCE_S)
            assert rank.process.exitcode == 0, f"rank {rank.process.name} ended with {rank.process.exitcode}"
        return said


def _child(
    line: Connection, body: Callable[..., Any], rank: int, world: int, arguments: Any, environment: Dict[str, str]
) -> NoReturn:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    status = 0
    try:
        line.send(("said", body(Reporter(line), rank, world, *arguments)))
    except BaseException:
        line.send(("failed", traceback.format_exc()))
        status = 1
    import atexit

    atexit._run_exitfuncs()
    os._exit(status)


@pytest.fixture
def job() -> Iterator[Dict[str, str]]:
    """The environment of a new job, whose meeting place is this process."""
    id = roundel.UniqueId()
    yield {"ROUNDEL_UNIQUE_ID": id.hex()}


def join(rank: int, world: int, **settings: Any) -> roundel.Communicator:
    """A rank of the job that `job` made, as a launcher would start it."""
    os.environ.update(ROUNDEL_RANK=str(rank), ROUNDEL_WORLD_SIZE=str(world))
    return roundel.Communicator.from_env(**settings)
