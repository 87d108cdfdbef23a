"""What can go wrong. Every error of the library says what happened, to whom, during what, and what to do next.

An :class:`InvalidArgument` or :class:`Unsupported` call has sent nothing and leaves the communicator usable. After any other
error the communicator is finished, on every rank; later calls repeat the error.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

__all__ = [
    "Aborted",
    "Corrupted",
    "InitializationError",
    "InvalidArgument",
    "Mismatch",
    "PeerLost",
    "RoundelError",
    "SystemFailure",
    "TimedOut",
    "Unsupported",
]


class RoundelError(RuntimeError):
    """Base of all errors of this package."""

    #: The ranks that the error is about: who is gone, who is waited for, who disagrees, who aborted. Empty where nobody
    #: in particular is to blame.
    ranks: Tuple[int, ...]
    #: This process's rank in the communicator; ``None`` where the error came before there was one.
    rank: Optional[int]
    #: The call that it ended, as in ``"all_reduce"``; ``None`` outside calls.
    operation: Optional[str]
    #: The number of that call on its communicator, from 0 and equal on all ranks; ``None`` where there is none.
    sequence: Optional[int]
    #: How far the call that raised this had come on this rank: bytes sent, received, copied and reduced, and bytes that it
    #: would have in all. ``None`` where it was refused before it began, or moves nothing.
    progress: Optional[Tuple[int, int]]
    #: What is left of the data that the call that raised this was given. ``"intact"``: the input is as it was, and the call can
    #: be made again with it; always so where input and output are different memory. ``"undefined"``: the call was in place
    #: and was cut in the middle.
    buffer: str

    def __init__(
        self,
        message: str,
        *,
        ranks: Tuple[int, ...] = (),
        rank: Optional[int] = None,
        operation: Optional[str] = None,
        sequence: Optional[int] = None,
        progress: Optional[Tuple[int, int]] = None,
        buffer: str = "intact",
    ) -> None:
        super().__init__(message)
        self.ranks = ranks
        self.rank = rank
        self.operation = operation
        self.sequence = sequence
        self.progress = progress
        self.buffer = buffer

    def copy(self) -> RoundelError:
        """The same error without a traceback: one failure is raised once for everybody who asks."""
        return type(self)(str(self), **self._facts())

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return type(self), (str(self),), self._facts()

    def _facts(self) -> Dict[str, Any]:
        facts = ("ranks", "rank", "operation", "sequence", "progress", "buffer")
        return {fact: getattr(self, fact) for fact in facts}


class InvalidArgument(RoundelError, ValueError):
    """The arguments make no sense together. Nothing was sent; the communicator lives on."""


class Unsupported(RoundelError, NotImplementedError):  # a kind of the standard exception, for callers who catch that
    """Asked for something that this build, machine or combination does not offer."""


class Mismatch(RoundelError):
    """Ranks made different calls; the message shows both."""


class PeerLost(RoundelError, ConnectionError):
    """Ranks exited, were killed, or their host went away."""


class Corrupted(RoundelError):
    """Bytes arrived changed, or ``ranks`` hold other results than the rest."""


class TimedOut(RoundelError, TimeoutError):
    """A deadline passed; ``ranks`` had not done their part."""


class InitializationError(RoundelError):
    """Not all ranks turned up when the communicator was made."""


class Aborted(RoundelError):
    """A rank ended the communicator, with its reason."""


class SystemFailure(RoundelError):
    """The operating system said no."""
