"""What only an installed package can show: the wheel's metadata."""

import subprocess
import sys
from importlib import metadata

import pytest

import roundel
from harness import PATIENCE_S, need

try:
    INSTALLED = metadata.distribution("roundel")
except metadata.PackageNotFoundError:
    pytest.skip("skipped: the package is on the path, but not installed", allow_module_level=True)


def test_the_version_is_the_library_s():
    assert INSTALLED.version == roundel.library_version()


def test_it_needs_nothing():
    assert [need for need in INSTALLED.requires or [] if "extra ==" not in need] == []


def test_it_carries_its_library_and_its_types():
    files = {str(file) for file in INSTALLED.files or []}
    if "roundel/__init__.py" not in files:
        pytest.skip("skipped: an editable install")
    assert {"roundel/libroundel.so", "roundel/py.typed"} <= files


def test_torch_finds_the_backend_without_an_import(tmp_path):
    torch = need("torch")
    if not hasattr(torch.distributed.Backend, "_ensure_backend_registered"):
        pytest.skip("skipped: torch before 2.14 looks for no entry points")
    program = (
        "import sys, torch.distributed as dist\n"
        "dist.init_process_group('roundel', init_method='file://' + sys.argv[1], rank=0, world_size=1)\n"
        "dist.barrier()\n"
        "print(dist.get_backend())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout.strip()) == (0, "roundel"), done.stderr
