"""All errors that realesr reports to a person, and the exit status that each one means.

    RealesrError
    ├── UsageError (2)      wrong or contradictory options; also ConfigError
    ├── ModelError (3)      ModelNotFound, DownloadFailed, ChecksumMismatch, CorruptWeights, UnknownArchitecture
    ├── InputError (4)      UnreadableInput, UnsupportedInput
    ├── DeviceError (5)     DeviceUnavailable, OutOfMemory, NonFiniteOutput
    ├── OutputError (6)     OutputExists, EncodeFailed, DiskFull
    └── TrainingDiverged (7)

Other statuses: 0 everything done; 1 some of several inputs failed; 70 a bug in realesr; 130 Ctrl-C; 143 SIGTERM.
"""

import re
from pathlib import Path
from typing import ClassVar

# Control characters, which terminals obey, with the two separators of lines and what turns the direction of text.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def one_line(text: str) -> str:
    """The text as one line that can be shown anywhere: what a terminal would obey stands there escaped, as in `\\x1b`.

    Names of files and what files say of themselves are other people's words.
    """
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


_MOST_CHARACTERS = 2000


def _shortened(text: str) -> str:
    """Other people's words may be as long as their files; the cause is at the end, or soon after the beginning."""
    half = _MOST_CHARACTERS // 2
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: half - 2]} … {text[1 - half :]}"


class RealesrError(Exception):
    """Root of the tree. `message` says in one line what failed and why, `hint` in another what to do about it."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, path: Path | None = None) -> None:
        self.message = _shortened(one_line(message))
        self.hint = None if hint is None else _shortened(one_line(hint))
        super().__init__(self.message)
        self.path = path


class UsageError(RealesrError):
    """A wrong option, or options that contradict each other."""

    exit_status = 2


class ConfigError(UsageError, ValueError):
    """A configuration file with an unknown key, a wrong type or a value out of range."""


class ModelError(RealesrError):
    """Weights could not be found, fetched or understood."""

    exit_status = 3


class ModelNotFound(ModelError):
    """Neither a file nor a name of the catalogue."""


class DownloadFailed(ModelError):
    """No source gave the file."""


class ChecksumMismatch(ModelError):
    """A file's size or SHA-256 is not the one of the catalogue."""


class CorruptWeights(ModelError):
    """The file is not a weights file, is cut off, or would run code when read."""


class UnknownArchitecture(ModelError):
    """The file holds tensors, but of no network that realesr knows."""


class InputError(RealesrError):
    """A picture, film or data set that cannot be used."""

    exit_status = 4


class UnreadableInput(InputError):
    """Missing, empty, damaged or not an image at all."""


class UnsupportedInput(InputError):
    """Readable, but it cannot take what was asked of it."""


class DeviceError(RealesrError):
    """The device failed, after recovery has been tried."""

    exit_status = 5


class DeviceUnavailable(DeviceError):
    """The device asked for does not exist here."""


class OutOfMemory(DeviceError):
    """Not even the smallest tile, a picture to degrade, or a training step fits."""


class NonFiniteOutput(DeviceError):
    """The network gives NaN or infinity even in float32."""


class OutputError(RealesrError):
    """A result could not be written."""

    exit_status = 6


class OutputExists(OutputError):
    """The target is already there and may not be replaced."""


class EncodeFailed(OutputError):
    """The encoder refused the picture."""


class DiskFull(OutputError):
    """No space left on the target's disk."""


class TrainingDiverged(RealesrError):
    """Loss or weights have not been finite for too many steps."""

    exit_status = 7
