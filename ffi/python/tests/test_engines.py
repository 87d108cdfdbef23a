"""The examples for engines that start ranks themselves."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness import need

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("engine", ["ray", "pyspark"])
def test_an_example_sums_over_four_ranks(engine):
    need(engine)
    program = EXAMPLES / f"{engine.removeprefix('py')}_all_reduce.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("6.0") == 4, done.stdout
