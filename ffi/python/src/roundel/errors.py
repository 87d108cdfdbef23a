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

    def __init__(
        self,
        message: str,
        *,
        ranks: Tuple[int, ...] = (),
        rank: Optional[int] = None,
        operation: Optional[str] = None,
        sequence: Optional[int] = None,
    ) -> None:
        super().__init__(message)
        self.ranks = ranks
        self.rank = rank
        self.operation = operation
        self.sequence = sequence

    def copy(self) -> RoundelError:
        """The same error without a traceback: one failure is raised once for everybody who asks."""
        return type(self)(str(self), **self._facts())

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return type(self), (str(self),), self._facts()

    def _facts(self) -> Dict[str, Any]:
        return {"ranks": self.ranks, "rank": self.rank, "operation": self.operation, "sequence": self.sequence}


class InvalidArgument(RoundelError, ValueError):
    """The arguments make no sense together. Nothing was sent; the communicator lives on."""


# What Python itself raises for this, so that callers who catch the standard exception catch this one too.
class Unsupported(RoundelError, NotImplementedError):
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
