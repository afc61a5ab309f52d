"""GIF files, frame by frame: FFmpeg chooses each frame's 256 colours and packs it, the frame around that is ours.

OpenCV's encoder maps colours to a fixed table, which is far worse (docs/performance.md), and FFmpeg's own container
cannot repeat a time, as delays of 0 do.
"""

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from realesr_cli.errors import EncodeFailed
from realesr_cli.row_writers import in_threads

Pixels = NDArray[Any]

_KEEP, _CLEAR = 1, 2
"""Disposal: what stays of a frame when its time is over."""
# error diffusion: of the choices the one that is nearest to the picture at some distance
_DITHER = "sierra2_4a"
_LONGEST_DELAY_CS = 65535


def write_gif(
    file: BinaryIO, height: int, width: int, durations_ms: Sequence[int], loops: int, frames: Iterable[Pixels]
) -> None:
    """GIF89a with a palette for each frame. `frames` are (height, width, 3 or 4) uint8 RGB(A).

    Alpha from 128 on is opaque, below transparent: there is nothing between in GIF. `loops` counts how often all is
    played; 0 = for ever. Times are rounded to hundredths of a second so that their sum stays right.
    Raises: EncodeFailed.
    """
    # OpenCV's reader wants a colour table for the whole file; two black entries, that no frame uses
    file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF0, 0, 0) + bytes(6))
    if loops != 1:  # the number there is of repetitions
        file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<HB", min(max(loops - 1, 0), 65535), 0))
    shown_ms = shown_cs = 0
    for duration_ms, (palette, image, transparent) in zip(durations_ms, in_threads(_packed, frames), strict=True):
        shown_ms += duration_ms
        delay_cs = min(round(shown_ms / 10) - shown_cs, _LONGEST_DELAY_CS)
        shown_cs += delay_cs
        disposal = _KEEP if transparent is None else _CLEAR
        flags = disposal << 2 | (transparent is not None)
        file.write(b"\x21\xf9\x04" + struct.pack("<BHBB", flags, delay_cs, transparent or 0, 0))
        size = (len(palette) // 3 - 1).bit_length() - 1
        file.write(image[:9] + bytes([0x80 | size]) + palette + image[10:])
    file.write(b"\x3b")


def _packed(frame: Pixels) -> tuple[bytes, bytes, int | None]:
    """(palette, image from its separator to its terminator, number of the transparent colour or None)."""
    import av

    height, width, channels = frame.shape
    opaque = channels == 3
    rgba = np.full((height, width, 4), 255, np.uint8)
    rgba[..., :channels] = frame
    if not opaque:
        rgba[frame[..., 3] < 128] = 0
        rgba[frame[..., 3] >= 128, 3] = 255
    try:
        graph = av.filter.Graph()
        kind = av.VideoFormat("rgba", width, height)
        source = graph.add_buffer(width=width, height=height, format=kind, time_base=Fraction(1, 100))
        split, sink = graph.add("split"), graph.add("buffersink")
        choose = graph.add("palettegen", f"stats_mode=single:reserve_transparent={int(not opaque)}")
        use = graph.add("paletteuse", f"new=1:dither={_DITHER}")
        source.link_to(split)
        split.link_to(choose, 0, 0)
        split.link_to(use, 1, 0)
        choose.link_to(use, 0, 1)
        use.link_to(sink)
        graph.configure()
        picture = av.VideoFrame.from_ndarray(rgba, format="rgba")
        picture.pts, picture.time_base = 0, Fraction(1, 100)
        graph.push(picture)
        indexed = graph.vpull()
        encoder = av.CodecContext.create("gif", "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "pal8"
        encoder.time_base, encoder.options = Fraction(1, 100), {"gifflags": "0"}
        data = b"".join(bytes(packet) for packet in [*encoder.encode(indexed), *encoder.encode(None)])
    except (av.FFmpegError, MemoryError) as error:
        raise EncodeFailed(f"cannot encode a GIF frame of {width}x{height}: {error}") from error
    return _taken_apart(data)


def _taken_apart(data: bytes) -> tuple[bytes, bytes, int | None]:
    """The parts of a GIF of one frame; GIF89a specification, sections 18 to 23."""
    entries = 2 << (data[10] & 7) if data[10] & 0x80 else 0
    palette, at, transparent = data[13 : 13 + 3 * entries], 13 + 3 * entries, None
    while data[at] == 0x21:  # extensions
        if data[at + 1] == 0xF9 and data[at + 3] & 1:
            transparent = data[at + 6]
        at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    flags = data[at + 9]
    if flags & 0x80:
        entries = 2 << (flags & 7)
        palette = data[at + 10 : at + 10 + 3 * entries]
        return palette, data[at : at + 10] + data[at + 10 + 3 * entries :].rstrip(b"\x3b"), transparent
    return palette, data[at:].rstrip(b"\x3b"), transparent
