"""Errors as ``torch.distributed`` knows them."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator

import torch.distributed as dist

from ..errors import InvalidArgument, RoundelError, TimedOut, Unsupported


def as_dist_error(error: RoundelError) -> Exception:
    """``error`` as a ``DistBackendError`` with the same facts (``ranks``, ``operation``, ``sequence``, ``progress``, ``buffer``),
    caused by it. A call that was refused before anything was sent stays what it is: the group is still good, and only this
    rank is concerned."""
    if isinstance(error, (InvalidArgument, Unsupported)):
        return error
    # The words "Timed out" are those by which gloo's users and torch's tests know it.
    words = f"[roundel] Timed out : {error}" if isinstance(error, TimedOut) else f"[roundel] {error}"
    translated: Any = dist.DistBackendError(words)
    translated.ranks = error.ranks
    translated.operation = error.operation
    translated.sequence = error.sequence
    translated.progress = error.progress
    translated.buffer = error.buffer
    translated.__cause__ = error
    assert isinstance(translated, Exception)
    return translated


@contextlib.contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except RoundelError as error:
        raise as_dist_error(error) from error
