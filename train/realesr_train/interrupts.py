"""Ctrl-C and SIGTERM as a wish, which the loop grants between two steps, after it has written a checkpoint."""

import signal
import threading
from types import FrameType, TracebackType
from typing import NoReturn, Self

_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Interrupts:
    """In a `with` block, the first signal is noted in `status`; a second one interrupts at once.

    Ranks other than the first (`is_main`) ignore both: the first still needs them for the step that it is in.
    """

    def __init__(self, *, is_main: bool = True) -> None:
        self.status: int | None = None
        self._is_main = is_main
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _STATUS:
                self._before[number] = signal.signal(number, self._note if self._is_main else signal.SIG_IGN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.status is not None:
            self.leave()
        self.status = _STATUS[signal.Signals(number)]

    def leave(self) -> NoReturn:
        """Raises: KeyboardInterrupt or SystemExit, as the signal would have."""
        if self.status == _STATUS[signal.SIGTERM]:
            raise SystemExit(self.status)
        raise KeyboardInterrupt
