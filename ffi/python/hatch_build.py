"""What makes this wheel more than its Python files: ``libroundel.so``, built by cargo from the workspace around this folder.

``ROUNDEL_LIBRARY_PREBUILT`` names a finished library to take instead, for those who cross-compile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any, Dict

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WORKSPACE = Path(__file__).resolve().parents[2]


class LibraryHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: Dict[str, Any]) -> None:
        library = self._library()
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        # The library has nothing of any Python in it: one wheel for all of them.
        build_data["tag"] = f"py3-none-{platform}"
        if version == "editable":
            # An editable install runs from this folder, so the library belongs there; git ignores it.
            link = Path(self.root, "src", "roundel", "libroundel.so")
            link.unlink(missing_ok=True)
            link.symlink_to(library)
        else:
            build_data["force_include"][str(library)] = "roundel/libroundel.so"

    def _library(self) -> Path:
        prebuilt = os.environ.get("ROUNDEL_LIBRARY_PREBUILT")
        if prebuilt:
            return Path(prebuilt).resolve(strict=True)
        if not (WORKSPACE / "ffi" / "c" / "Cargo.toml").is_file():
            raise RuntimeError(
                f"{WORKSPACE} is not a clone of Roundel: this package is built in its folder ffi/python, with the Rust sources "
                "around it (pip install ./ffi/python), or from a finished library named by ROUNDEL_LIBRARY_PREBUILT"
            )
        command = [
            "cargo",
            "build",
            "--release",
            "--locked",
            "-p",
            "roundel-c",
            "--message-format=json-render-diagnostics",
        ]
        self.app.display_info(f"{' '.join(command)} in {WORKSPACE}")
        try:
            built = subprocess.run(command, cwd=WORKSPACE, stdout=subprocess.PIPE, text=True)
        except FileNotFoundError:
            raise RuntimeError("building roundel needs Rust: cargo was not found (https://rustup.rs)") from None
        if built.returncode:
            raise RuntimeError(f"cargo failed with status {built.returncode}; its messages are above")
        for line in built.stdout.splitlines():
            message = json.loads(line)
            if message.get("reason") == "compiler-artifact" and "cdylib" in message["target"]["kind"]:
                for name in message["filenames"]:
                    if name.endswith("libroundel.so"):
                        return Path(name)
        raise RuntimeError("cargo built no libroundel.so; roundel runs on Linux")
