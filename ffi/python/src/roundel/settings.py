"""Settings of new communicators: those of the ``ROUNDEL_*`` variables, in lower case."""

from __future__ import annotations

from ctypes import c_void_p
from typing import Any, Dict, Union

from .errors import RoundelError
from .library import check, lib

Setting = Union[str, int, bool]


class Options:
    """Settings as the library's object, for as long as a communicator is being made."""

    def __init__(self, settings: Dict[str, Setting]) -> None:
        self._settings = settings

    def __enter__(self) -> Any:
        if not self._settings:
            return None
        self._handle = c_void_p()
        check(lib.roundel_options_create(self._handle))
        for name, value in self._settings.items():
            text = str(int(value)) if isinstance(value, bool) else str(value)
            try:
                check(lib.roundel_options_set(self._handle, name.encode(), text.encode()))
            except RoundelError:
                self.__exit__()
                raise
        return self._handle

    def __exit__(self, *_: object) -> None:
        if self._settings:
            lib.roundel_options_destroy(self._handle)
