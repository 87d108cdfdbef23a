"""Stand-ins for the CUDA libraries that PyTorch's wheel links, so that it starts on a machine without them.

    python torch_stubs.py SITE_PACKAGES

Each library gets every symbol that torch's own libraries expect of it, with its version; each function answers that there is no
device. Needs readelf and cc.
"""

import collections
import re
import subprocess
import sys
import tempfile
from pathlib import Path

#: cudaErrorNoDevice.
NO_DEVICE = 100
SYSTEM = {
    *("ld-linux-x86-64.so.2", "libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1"),
    *("libgcc_s.so.1", "libstdc++.so.6", "libgomp.so.1", "libgfortran.so.5", "libquadmath.so.0", "libz.so.1"),
    *("libcuda.so.1", "libshm.so"),
}
OF_CUDA = re.compile(
    r"^(cuda|cu[A-Z]|cublas|cudnn|cufft|cusparse|cusolver|nccl|pnccl|nvrtc|nvshmem|nvJitLink|__cuda|cupti)|nvshmem"
)
TEXT = ("ErrorString", "ErrorName", "StatusString", "StatusName")


def readelf(path, flag):
    return subprocess.run(["readelf", "-W", flag, path], capture_output=True, text=True, check=True).stdout


def survey(libraries):
    """Libraries that are linked, and for each the symbols that are expected of it, by version."""
    needed, provided, expected, library_of_version = set(), set(), set(), {}
    for path in libraries:
        needed.update(re.findall(r"\(NEEDED\).*\[(.*?)\]", readelf(path, "-d")))
        library = None
        for line in readelf(path, "-V").splitlines():
            if found := re.search(r"File: (\S+)", line):
                library = found.group(1)
            elif library and (found := re.search(r"Name: (\S+)\s+Flags", line)):
                library_of_version[found.group(1)] = library
        for line in readelf(path, "--dyn-syms").splitlines():
            columns = line.split()
            if len(columns) >= 8 and columns[0][:-1].isdigit():
                (expected if columns[6] == "UND" else provided).add(columns[7])
    foreign = sorted(needed - {path.name for path in libraries} - SYSTEM)
    symbols = {name: collections.defaultdict(set) for name in foreign}
    for version, library in library_of_version.items():
        if library in symbols:
            symbols[library][version].update()
    own = {symbol.split("@")[0] for symbol in provided}
    # A symbol without a version may be in any of the libraries: one has them all.
    anywhere = "libcufile.so.0" if "libcufile.so.0" in symbols else foreign[0]
    for symbol in expected:
        name, _, version = symbol.partition("@")
        version = version.lstrip("@").split()[0] if version else ""
        if version and library_of_version.get(version) in symbols:
            symbols[library_of_version[version]][version].add(name)
        elif not version and name not in own and OF_CUDA.search(name):
            symbols[anywhere][""].add(name)
    return symbols


def function(name):
    if name.endswith(TEXT):
        return f'const char *{name}(void) {{ return "no CUDA here"; }}\n'
    return f"int {name}(void) {{ return {NO_DEVICE}; }}\n"


def build(target, by_version):
    with tempfile.TemporaryDirectory() as folder:
        source, script = Path(folder, "stub.c"), Path(folder, "stub.map")
        source.write_text("".join(map(function, sorted(set().union(*by_version.values())))))
        versions = []
        for version, names in by_version.items():
            if version:
                exported = f"global: {'; '.join(sorted(names))};" if names else ""
                versions.append(f"{version} {{ {exported} }};\n")
        script.write_text("".join(versions))
        command = ["cc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{target.name}", "-o", target, source]
        subprocess.run(command + ([f"-Wl,--version-script={script}"] if versions else []), check=True)


def main(site_packages):
    libraries = [
        path
        for path in Path(site_packages, "torch", "lib").iterdir()
        if re.search(r"^(libtorch.*|libc10.*|libcaffe2_nvrtc|libshm)\.so$", path.name)
    ]
    folder = Path(site_packages, "nvidia", "cu13", "lib")
    folder.mkdir(parents=True, exist_ok=True)
    for name, by_version in survey(libraries).items():
        if not (folder / name).exists():
            build(folder / name, by_version)


if __name__ == "__main__":
    main(sys.argv[1])
