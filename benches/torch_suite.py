"""Runs the tests of torch.distributed that ship inside torch's wheel (285 in 2.15.0) on another backend.

    BACKEND=roundel python benches/torch_suite.py -v [TestDistBackendWithSpawn.test_all_reduce_sum | -k pattern]

WORLD_SIZE is the number of ranks, 3 unless set. The suite knows the backends that come with torch and skips what others cannot do. Here
its source is run with two of those gates opened for the backend: what gloo can do, and what only MPI could once (all_to_all on CPUs).
Names of events in profiles are not checked. Ranks are forked, which saves ten seconds a test. Needs the package `expecttest`.
"""

import importlib.util
import multiprocessing
import os
import socket
import sys
import tempfile
import types

BACKEND = os.environ.setdefault("BACKEND", "roundel")
SUITE = "torch.testing._internal.distributed.distributed_test"


def free_port():
    """For the suite's store; it cannot choose by itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


folder = os.environ.setdefault("TEMP_DIR", tempfile.mkdtemp())
for name in ("barrier", "test_dir"):
    os.makedirs(os.path.join(folder, name), exist_ok=True)
os.environ.setdefault("WORLD_SIZE", "3")
os.environ.setdefault("DISTRIBUTED_TESTS_DEFAULT_TIMEOUT", "40")
os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
os.environ.setdefault("MASTER_PORT", str(free_port()))
os.environ["PYTORCH_PRINT_REPRO_ON_FAILURE"] = "0"

import torch  # noqa: E402  (it reads the variables above)
from torch.testing._internal import common_distributed  # noqa: E402
from torch.testing._internal.common_utils import run_tests  # noqa: E402

torch.set_num_threads(1)
if BACKEND == "roundel":
    import roundel.torch  # noqa: F401
for feature in ("ddp", "subgroup", "plugin"):
    common_distributed.DistTestCases.backend_feature[feature].add(BACKEND)


def opened(source):
    for gate, wider in [
        ('BACKEND != "mpi"', f'BACKEND not in ("mpi", "{BACKEND}")'),
        ('BACKEND != "gloo"', f'BACKEND not in ("gloo", "{BACKEND}")'),
        ("if BACKEND not in backends", f'if (BACKEND if BACKEND != "{BACKEND}" else "gloo") not in backends'),
        ('BACKEND == "mpi" or BACKEND == "gloo"', f'BACKEND in ("mpi", "gloo", "{BACKEND}")'),
        ('elif BACKEND == "gloo"', f'elif BACKEND in ("gloo", "{BACKEND}")'),
    ]:
        source = source.replace(gate, wider)
    return source


def load():
    spec = importlib.util.find_spec(SUITE)
    suite = types.ModuleType(SUITE)
    suite.__file__ = spec.origin
    sys.modules[SUITE] = suite
    with open(spec.origin) as file:
        exec(compile(opened(file.read()), spec.origin, "exec"), suite.__dict__)
    suite.PROFILING_SUPPORTED_BACKENDS = []
    return suite


suite = load()


class TestDistBackendWithSpawn(suite.TestDistBackend, suite.DistributedTest._DistTestBase):
    def setUp(self):
        super().setUp()
        self._start_processes(multiprocessing.get_context("fork").Process)


if __name__ == "__main__":
    run_tests()
