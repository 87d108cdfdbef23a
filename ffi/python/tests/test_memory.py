"""What counts as memory, what is read-only, and what is refused with which words."""

import array
import ctypes
import gc
import weakref

import numpy as np
import pytest

import roundel
from harness import need
from roundel.memory import memory


def of(value, target=True):
    return memory(value, target=target, what="the data")


@pytest.mark.parametrize(
    "dtype, name, lanes",
    [
        ("f2", "float16", 1),
        ("f4", "float32", 1),
        ("f8", "float64", 1),
        ("i1", "int8", 1),
        ("u8", "uint64", 1),
        ("i2", "int16", 2),
        ("c8", "complex64", 2),
        ("c16", "complex128", 2),
        ("?", "bool", 1),
        ("M8[s]", "datetime64[s]", 8),
        ("S5", "bytes40", 5),
    ],
)
def test_numpy_arrays_tell_their_type(dtype, name, lanes):
    data = np.zeros((3, 4), dtype)
    seen = of(data)
    assert (seen.address, seen.count, seen.element.name, seen.element.lanes) == (data.ctypes.data, 12, name, lanes)
    assert seen.size_bytes == data.nbytes


def test_numpy_views_are_used_where_they_are():
    data = np.arange(12.0).reshape(3, 4)
    assert of(data[1]).address == data.ctypes.data + 4 * 8
    assert of(data[1:2].T).count == 4  # one row is dense however it is turned
    assert of(np.zeros((0, 3))[:, ::2]).count == 0
    with pytest.raises(roundel.InvalidArgument, match="the data is not contiguous.*ascontiguousarray"):
        of(data[:, 1])
    with pytest.raises(roundel.InvalidArgument, match="not contiguous"):
        of(data.T)


def test_what_cannot_be_written_is_no_target():
    data = np.zeros(3)
    data.flags.writeable = False
    assert of(data, target=False).count == 3
    for constant in (data, b"abc", memoryview(b"abc"), np.broadcast_to(np.float32(1), (1,))):
        with pytest.raises(roundel.InvalidArgument, match="the data is read-only"):
            of(constant)
        of(constant, target=False)


@pytest.mark.parametrize(
    "value, words",
    [
        (np.array([object()]), "Python objects"),
        (np.zeros(3, ">f4"), "foreign byte order"),
        (np.float32(1), "NumPy scalar"),
        ([1, 2, 3], "of type list; expected"),
        (None, "of type NoneType; expected"),
        ("text", "of type str"),
    ],
)
def test_what_has_no_usable_memory_is_refused(value, words):
    with pytest.raises(roundel.InvalidArgument, match=words):
        of(value, target=False)


def test_an_interface_may_give_a_buffer_for_an_address():
    class Picture:
        def __init__(self, data, count):
            self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (count,), "data": data}

    # As an attribute of the type, which is where PIL has it.
    class Image:
        __array_interface__ = property(lambda self: Picture(b"abcdef", 6).__array_interface__)

    image = memory(Image(), target=False, what="input")
    assert (image.count, image.element.name, image.writable) == (6, "uint8", False)
    with pytest.raises(roundel.InvalidArgument, match="has 6 bytes"):

        class Short:
            __array_interface__ = property(lambda self: Picture(b"abcdef", 7).__array_interface__)

        memory(Short(), target=False, what="input")


def test_the_buffer_protocol():
    for value, name, count in [
        (bytearray(5), "uint8", 5),
        (array.array("d", [1, 2]), "float64", 2),
        (array.array("q", [1, 2]), "int64", 2),
        (array.array("H", [1, 2]), "uint16", 2),
        ((ctypes.c_float * 3)(), "float32", 3),
        (memoryview(bytearray(16)).cast("i"), "int32", 4),
    ]:
        seen = of(value)
        assert (seen.element.name, seen.count) == (name, count)
    with pytest.raises(roundel.InvalidArgument, match="contiguous"):
        of(memoryview(bytearray(16))[::2])


def test_a_buffer_in_use_cannot_be_resized():
    data = bytearray(8)
    seen = of(data)
    with pytest.raises(BufferError):
        data.extend(b"x")
    del seen
    gc.collect()
    data.extend(b"x")


def test_memory_by_hand():
    data = np.arange(6, dtype=np.int32)
    by_hand = roundel.Memory(data.ctypes.data, 6, "int32", owner=data)
    assert of(by_hand) is by_hand
    assert by_hand.part(2, 3).address == data.ctypes.data + 8
    with pytest.raises(roundel.InvalidArgument, match="elements 4 to 7"):
        by_hand.part(4, 3)
    with pytest.raises(roundel.InvalidArgument, match="address 0"):
        roundel.Memory(0, 1, "int32")
    with pytest.raises(roundel.Unsupported, match="'int7'"):
        roundel.Memory(64, 1, "int7")
    with pytest.raises(roundel.InvalidArgument, match="not aligned for int32"):
        of(roundel.Memory(data.ctypes.data + 1, 2, "int32", owner=data))


class OnDevice:
    __cuda_array_interface__ = {"shape": (3,), "typestr": "<f4", "data": (4096, False), "version": 3}


class Foreign:
    """Exports NumPy memory by DLPack as other libraries do: from another device, or by a legacy capsule."""

    def __init__(self, data, device=(1, 0), legacy=False):
        self.data, self.device, self.legacy = data, device, legacy

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **options):
        if self.legacy and options:
            raise TypeError("unexpected keyword argument")
        return self.data.__dlpack__(**options)


def test_device_memory_is_refused_by_name():
    with pytest.raises(roundel.Unsupported, match="device memory"):
        of(OnDevice())
    with pytest.raises(roundel.Unsupported, match="DLPack device 2"):
        of(Foreign(np.zeros(3), device=(2, 0)))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "complex64", "bool"])
def test_dlpack_tells_what_numpy_tells(dtype):
    data = np.zeros((2, 3), dtype)
    seen, plain = of(Foreign(data), target=False), of(data)
    assert (seen.address, seen.count, seen.element) == (plain.address, plain.count, plain.element)
    with pytest.raises(roundel.InvalidArgument, match="not contiguous"):
        of(Foreign(data.T), target=False)


def test_versioned_capsules_say_whether_they_may_be_written():
    data = np.zeros(4, np.float32)
    try:
        data.__dlpack__(max_version=(1, 0))
    except TypeError:
        pytest.skip("skipped: this NumPy sends legacy capsules only")
    assert of(Foreign(data)).writable
    data.flags.writeable = False
    with pytest.raises(roundel.InvalidArgument, match="read-only"):
        of(Foreign(data))


def test_legacy_capsules_are_read_only():
    data = np.zeros(4, np.float32)
    assert of(Foreign(data, legacy=True), target=False).address == data.ctypes.data
    with pytest.raises(roundel.InvalidArgument, match="read-only"):
        of(Foreign(data, legacy=True))


def test_dlpack_keeps_its_tensor_alive_and_lets_it_go():
    class Array(np.ndarray):
        pass

    data = np.zeros(4, np.float32).view(Array)
    gone = weakref.ref(data)
    seen = of(Foreign(data), target=False)
    del data
    gc.collect()
    assert gone() is not None
    del seen
    gc.collect()
    assert gone() is None


def test_ml_dtypes():
    ml_dtypes = need("ml_dtypes")
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        seen = of(np.zeros(3, getattr(ml_dtypes, name)))
        assert (seen.element.name, seen.element.lanes) == (name, 1)


def test_torch_tensors():
    torch = need("torch")
    for dtype in (torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.int16, torch.complex64):
        tensor = torch.zeros(2, 3, dtype=dtype)
        seen = of(tensor)
        assert (seen.address, seen.size_bytes) == (tensor.data_ptr(), tensor.numel() * tensor.element_size())
    with pytest.raises(roundel.InvalidArgument, match="not contiguous"):
        of(torch.zeros(2, 3).t())
    with pytest.raises(roundel.InvalidArgument, match="requires grad"):
        of(torch.zeros(2, requires_grad=True))
    of(torch.zeros(2, requires_grad=True), target=False)
    with pytest.raises(roundel.Unsupported, match="sparse"):
        of(torch.zeros(2).to_sparse())
    with pytest.raises(roundel.Unsupported, match="device memory"):
        of(torch.zeros(2, device="meta"))
    with pytest.raises(roundel.InvalidArgument, match="conjugated"):
        of(torch.zeros(2, dtype=torch.complex64).conj())
