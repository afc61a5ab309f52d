"""What libjpeg, libpng and video encoders print to stderr by themselves, caught, so that people read our own line."""

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2
_lock = threading.Lock()
# the beginnings of warnings in libjpeg's jerror.h, and the others' own names
_FROM_CODECS = re.compile(
    rb"(Corrupt JPEG data|Premature end of|Invalid |Unknown Adobe|Inconsistent progression|Unsupported marker|"
    rb"Warning: unknown JFIF|Application transferred|libpng |x26[45] \[|Svt\[)"
)


@contextmanager
def codec_messages() -> Iterator[list[str]]:
    """Yields a list that holds, after the block, the lines that picture codecs printed in it.

    They print to the file descriptor, past Python, so that is turned aside into a file for the length of the block.
    What another thread prints meanwhile comes out at the end of it. Where there is no stderr, nothing happens.
    """
    messages: list[str] = []
    with _lock:
        try:
            original = os.dup(_STDERR)
        except OSError:
            yield messages
            return
        with tempfile.TemporaryFile() as aside:
            os.dup2(aside.fileno(), _STDERR)
            try:
                yield messages
            finally:
                os.dup2(original, _STDERR)
                os.close(original)
                aside.seek(0)
                for line in aside.read().splitlines(keepends=True):
                    if _FROM_CODECS.match(line):
                        messages.append(line.decode(errors="replace").strip())
                    else:
                        os.write(_STDERR, line)
