"""Ctrl-C as a wish: the first one lets a search end in order, the second ends the program."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class Interrupt:
    """A context; calling it says whether Ctrl-C was pressed inside. The handler from before comes back at the end."""

    def __init__(self) -> None:
        self._pressed = False

    def __call__(self) -> bool:
        return self._pressed

    def __enter__(self) -> Interrupt:
        self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self._pressed:
            raise KeyboardInterrupt
        self._pressed = True
