"""Anything that holds elements, as the library sees it: an address, a count, an element type. Nothing is copied.

What is understood, in the order in which it is tried:

1. torch tensors (``data_ptr``), which alone tell all their types;
2. ``__cuda_array_interface__``: refused, for this build works on host memory;
3. ``__array_interface__`` (NumPy);
4. DLPack, versioned and legacy capsules (JAX, TensorFlow, CuPy on the host);
5. the buffer protocol (``bytearray``, ``array.array``, ``memoryview``, ctypes arrays, ...);
6. a :class:`Memory` that says it all itself.

The elements must lie densely in C order: a call moves bytes, and a staged copy that nobody asked for would hide what it costs.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, Tuple

from . import dlpack, pybuffer
from .dtypes import Element, element
from .errors import InvalidArgument, RoundelError, Unsupported

if TYPE_CHECKING:
    import torch

__all__ = ["Memory", "memory"]


class Memory:
    """``count`` elements at ``address``, which ``owner`` keeps alive.

    Made by hand it is the way to hand over memory of a library that this package does not know::

        comm.all_reduce(roundel.Memory(address, count, "float32", owner=whoever_frees_it))
    """

    __slots__ = ("address", "count", "element", "owner", "writable")

    def __init__(
        self, address: int, count: int, dtype: str | Element, *, writable: bool = True, owner: object = None
    ) -> None:
        if address < 0 or count < 0 or (count and not address):
            raise InvalidArgument(f"memory of {count} elements at address {address}")
        self.address = address
        self.count = count
        self.element = element(dtype) if isinstance(dtype, str) else dtype
        self.writable = writable
        self.owner = owner

    @property
    def size_bytes(self) -> int:
        return self.count * self.element.size_bytes

    def part(self, first: int, count: int) -> Memory:
        """``count`` elements from the ``first`` on."""
        if first < 0 or count < 0 or first + count > self.count:
            raise InvalidArgument(f"elements {first} to {first + count} of {self!r}")
        address = self.address + first * self.element.size_bytes
        return Memory(address, count, self.element, writable=self.writable, owner=self.owner)

    def __repr__(self) -> str:
        access = "" if self.writable else ", read-only"
        return f"Memory({self.count} x {self.element.name} at {self.address:#x}{access})"


def memory(value: Any, *, target: bool, what: str) -> Memory:
    """The memory of ``value``, which a call names ``what``; a ``target`` must be writable."""
    seen = value if isinstance(value, Memory) else _seen(value, target, what)
    if target and not seen.writable:
        raise InvalidArgument(f"{what} is read-only ({_type_name(value)}); results cannot be written to it")
    if seen.count and seen.address % seen.element.dtype.size_bytes:
        raise InvalidArgument(f"{what} at {seen.address:#x} is not aligned for {seen.element.name}")
    return seen


def _seen(value: Any, target: bool, what: str) -> Memory:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        if target and value.requires_grad and torch.is_grad_enabled():
            raise InvalidArgument(f"{what} requires grad, and autograd would not see the change; pass tensor.detach()")
        return of_tensor(value, what)
    # The class is asked, not the object: some objects grow attributes when they are looked at.
    kind = type(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        raise InvalidArgument(f"{what} is a NumPy scalar, which has no memory of its own; pass numpy.asarray(value)")
    if hasattr(kind, "__cuda_array_interface__"):
        raise _on_device(what, "__cuda_array_interface__")
    if hasattr(kind, "__array_interface__"):
        return _of_array(value, what)
    if hasattr(kind, "__dlpack__"):
        return _of_dlpack(value, what)
    try:
        view = pybuffer.Export(value)
    except TypeError:
        accepted = "a torch tensor, an array (NumPy, DLPack), or an object with the buffer protocol"
        raise InvalidArgument(f"{what} is of type {_type_name(value)}; expected {accepted}") from None
    except BufferError as error:
        raise InvalidArgument(f"{what}: {error}; its elements must be contiguous") from None
    return Memory(view.address, view.count, view.element(what), writable=view.writable, owner=view)


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _on_device(what: str, how: str) -> Unsupported:
    return Unsupported(
        f"{what} is in device memory ({how}); this build of roundel works on host memory, so copy it there first"
    )


def _not_contiguous(what: str, advice: str) -> InvalidArgument:
    return InvalidArgument(f"{what} is not contiguous; a call moves dense elements in C order: {advice}")


# --- torch ------------------------------------------------------------------------------------------------------------

_TORCH_ELEMENTS: Dict[torch.dtype, Element] = {}


def torch_element(dtype: torch.dtype) -> Element:
    """How a torch type travels. Types that the library cannot reduce (``int16``, other float8, ...) are moved as bytes."""
    found = _TORCH_ELEMENTS.get(dtype)
    if found is None:
        name = str(dtype)
        name = name[6:] if name.startswith("torch.") else name
        found = _TORCH_ELEMENTS[dtype] = element(name, dtype.itemsize if hasattr(dtype, "itemsize") else None)
    return found


def of_tensor(tensor: torch.Tensor, what: str) -> Memory:
    if not is_plain(tensor):
        raise _not_plain(tensor, what)
    return of_plain_tensor(tensor, what)


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether the tensor's elements lie in memory as it shows them, densely."""
    return not tensor.is_sparse and tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()


def of_plain_tensor(tensor: torch.Tensor, what: str) -> Memory:
    """The memory of a tensor that has been found :func:`is_plain`."""
    if not tensor.is_cpu:
        raise _on_device(what, str(tensor.device))
    return Memory(tensor.data_ptr(), tensor.numel(), torch_element(tensor.dtype), owner=tensor)


def _not_plain(tensor: torch.Tensor, what: str) -> RoundelError:
    torch = sys.modules["torch"]
    if tensor.layout is not torch.strided:
        return Unsupported(f"{what} is a {tensor.layout} tensor; only dense ones are understood, see Tensor.to_dense()")
    if not tensor.is_contiguous():
        return _not_contiguous(what, "see Tensor.contiguous(), and Tensor.copy_() to bring a result back")
    return InvalidArgument(f"{what} is a lazily conjugated or negated view; pass resolve_conj().resolve_neg()")


# --- __array_interface__ ----------------------------------------------------------------------------------------------

#: Kind and size of a typestr: the name of the type. ``V`` is whatever an extension made: its dtype says the name.
_KINDS: Dict[str, Callable[[int], str]] = {
    "b": lambda size: "bool",
    "i": lambda size: f"int{8 * size}",
    "u": lambda size: f"uint{8 * size}",
    "f": lambda size: f"float{8 * size}",
    "c": lambda size: f"complex{8 * size}",
}
#: Types that are moved as they are: dates, byte strings, text of fixed width, records.
_MOVED_KINDS = "mMSUV"


def _of_array(value: Any, what: str) -> Memory:
    facts = value.__array_interface__
    typestr: str = facts["typestr"]
    shape: Tuple[int, ...] = facts["shape"]
    size = _size_bytes(typestr, what)
    strides = facts.get("strides")
    if strides is not None and not _dense(shape, strides, size):
        raise _not_contiguous(what, "see numpy.ascontiguousarray()")
    data = facts.get("data")
    if data is None:
        raise InvalidArgument(f"{what}: its __array_interface__ names no address")
    if not isinstance(data, tuple):
        # An object with the buffer protocol instead of an address, as NumPy takes it too; PIL gives bytes.
        try:
            view = pybuffer.Export(data)
        except (TypeError, BufferError) as error:
            raise InvalidArgument(f"{what}: the data of its __array_interface__: {error}") from None
        kind = _array_element(value, typestr, size, what)
        skipped, needed = facts.get("offset", 0), _product(shape) * size
        if skipped < 0 or skipped + needed > view.len_bytes:
            raise InvalidArgument(
                f"{what}: its __array_interface__ has {view.len_bytes} bytes for {skipped} + {needed}"
            )
        return Memory(view.address + skipped, _product(shape), kind, writable=view.writable, owner=view)
    address, read_only = data
    return Memory(
        address, _product(shape), _array_element(value, typestr, size, what), writable=not read_only, owner=value
    )


def _array_element(value: Any, typestr: str, size: int, what: str) -> Element:
    order, kind = typestr[0], typestr[1]
    if order not in ("|", "=", "<" if sys.byteorder == "little" else ">"):
        raise InvalidArgument(f"{what} has elements in foreign byte order ({typestr}); convert them first")
    dtype = getattr(value, "dtype", None)
    if getattr(dtype, "hasobject", False):
        raise _holds_objects(what)
    if kind in _MOVED_KINDS or (kind, size) == ("f", 1):
        # ml_dtypes' bfloat16 and float8 present themselves as V2, V1 or f1; their name tells what they are.
        return element(str(getattr(dtype, "name", typestr)), size)
    if kind in _KINDS:
        return element(_KINDS[kind](size), size)
    raise InvalidArgument(f"{what} has elements of an unknown kind ({typestr})")


def _size_bytes(typestr: str, what: str) -> int:
    """As in ``<f4``, ``<M8[s]``, ``|S5``."""
    digits = typestr[2:].split("[")[0]
    if not digits:
        raise _holds_objects(what)
    # Text is counted in characters of four bytes.
    return int(digits) * (4 if typestr[1] == "U" else 1)


def _holds_objects(what: str) -> InvalidArgument:
    return InvalidArgument(f"{what} holds Python objects, which have no meaning in another process")


def _product(shape: Tuple[int, ...]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count


def _dense(shape: Tuple[int, ...], strides: Tuple[int, ...], step: int) -> bool:
    """Whether elements of ``step`` bytes (or whatever unit the strides have) lie end to end, last index fastest."""
    for extent, stride in zip(reversed(shape), reversed(strides)):
        if extent == 0:
            return True
        if extent != 1 and stride != step:
            return False
        step *= extent
    return True


# --- DLPack -----------------------------------------------------------------------------------------------------------


def _of_dlpack(value: Any, what: str) -> Memory:
    device, _ = value.__dlpack_device__()
    if device not in dlpack.HOST_DEVICES:
        raise _on_device(what, f"DLPack device {device}")
    tensor = dlpack.Export(value)
    if tensor.strides is not None and not _dense(tensor.shape, tensor.strides, 1):
        raise _not_contiguous(what, "make it so first")
    return Memory(tensor.address, _product(tensor.shape), tensor.element(what), writable=tensor.writable, owner=tensor)
