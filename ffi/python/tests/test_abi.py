"""What this package declares of the library, against the header itself."""

import ctypes
import re
from pathlib import Path

import pytest

import roundel
from roundel import library
from roundel.dtypes import DType, ReduceOp

HEADER = Path(__file__).resolve().parents[2] / "c" / "include" / "roundel.h"


@pytest.fixture(scope="module")
def header():
    if not HEADER.is_file():
        pytest.skip(f"skipped: {HEADER} is not there; this is not a clone")
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", HEADER.read_text(), flags=re.S)


#: C types as this package names them, pointers apart.
TYPES = {
    "bool": ctypes.c_bool,
    "size_t": ctypes.c_size_t,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "roundel_dtype_t": ctypes.c_int32,
    "roundel_reduce_op_t": ctypes.c_int32,
    "roundel_result_t": ctypes.c_int32,
    "roundel_collective_t": ctypes.c_int32,
    "roundel_buffer_state_t": ctypes.c_int32,
    "roundel_comm_t": ctypes.c_void_p,
    "roundel_work_t": ctypes.c_void_p,
    "roundel_options_t": ctypes.c_void_p,
    "struct roundel_unique_id_t": library.UniqueIdStruct,
    "roundel_unique_id_t": library.UniqueIdStruct,
    "struct roundel_error_details_t": library.ErrorDetails,
    "roundel_error_details_t": library.ErrorDetails,
    "char": ctypes.c_char,
}


def ctype(declaration):
    """The type of a parameter or member, as in ``const void *send``."""
    words = declaration.replace("const", " ").split()
    name = words.pop()
    stars = name.count("*") + "".join(words).count("*")
    base = " ".join(word.strip("*") for word in words if word.strip("*"))
    if base == "void":
        return [ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)][stars - 1]
    if base == "char":
        return [ctypes.c_char, ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p)][stars]
    return ctypes.POINTER(TYPES[base]) if stars else TYPES[base]


def test_every_function_is_declared_as_in_the_header(header):
    declared = dict(library.FUNCTIONS)
    for name, arguments in library.CALLS.items():
        declared[name] = [*arguments, ctypes.c_void_p]
        declared[f"{name}_async"] = [*arguments, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)]
    found = dict(re.findall(r"^roundel_result_t (roundel_\w+)\(([^)]*)\);", header, flags=re.M | re.S))
    assert len(found) > len(library.CALLS)
    for name, arguments in declared.items():
        parameters = [p for p in re.sub(r"\s+", " ", found[name]).split(",") if p.strip() != "void"]
        assert [ctype(p.strip()) for p in parameters] == arguments, name


def enumerators(header, prefix):
    return {name: int(value) for name, value in re.findall(rf"\b{prefix}(\w+) = (-?\d+)", header)}


def test_numbers_are_those_of_the_header(header):
    known = enumerators(header, "ROUNDEL_")
    for dtype in DType:
        assert known[dtype.name] == dtype
    for op in ReduceOp:
        assert known[op.name] == op
    for number, name in enumerate(library.COLLECTIVES):
        assert known[f"COLLECTIVE_{name.upper()}"] == number
    for number, name in enumerate(library.BUFFER_STATES):
        assert known[f"BUFFER_{name.upper()}"] == number
    assert (known["SUCCESS"], known["IN_PROGRESS"]) == (library.SUCCESS, library.IN_PROGRESS)
    failures = {name: number for name, number in known.items() if name.startswith("ERROR_")}
    # A bug in the library is a plain RoundelError.
    assert set(failures.values()) - {failures["ERROR_INTERNAL"]} == set(library._ERRORS)
    assert library._ERRORS[failures["ERROR_PEER_LOST"]] is roundel.PeerLost
    assert library._ERRORS[failures["ERROR_TIMEOUT"]] is roundel.TimedOut
    assert library._ERRORS[failures["ERROR_MISMATCH"]] is roundel.Mismatch


@pytest.mark.parametrize("struct", [library.ErrorDetails])
def test_structs_are_those_of_the_header(header, struct):
    (body,) = re.findall(r"typedef struct roundel_error_details_t \{(.*?)\}", header, flags=re.S)
    members = [member.strip() for member in body.split(";") if member.strip()]
    assert [(re.findall(r"\w+", member)[-1], ctype(member)) for member in members] == struct._fields_


def test_the_version_is_the_library_s():
    assert roundel.__version__ == roundel.library_version()
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", roundel.__version__)
