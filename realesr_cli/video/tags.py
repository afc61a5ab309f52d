"""What a film says about its colours, and what is to be believed where it says nothing.

Traps: PyAV gives tags as plain integers and knows no chroma location, so that is read from the stream's own headers.
Decoders do not tell "untagged" from the default of a standard, but containers often forget.
"""

import re
from pathlib import Path
from typing import Any, Protocol

import av
import av.logging
from av.bitstream import BitStreamFilterContext

from realesr_cli.video.colour import UNSPECIFIED, ChromaLocation, Colour, Matrix
from realesr_cli.video.frames import pixel_format

_MATRICES: dict[int, Matrix] = {
    1: "bt709",
    4: "fcc",
    5: "bt601",
    6: "bt601",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020",
}
_CODES: dict[Matrix, int] = {"identity": 0, "bt709": 1, "bt601": 6, "bt2020": 9}
_NAMES: dict[Matrix, str] = {"bt601": "BT.601", "bt709": "BT.709", "bt2020": "BT.2020"}
_BT601_PRIMARIES = (5, 6)  # of 625 and 525 lines
_BT2020 = 9
_HDR = (16, 18)  # PQ and HLG
_FULL, _LIMITED = 2, 1
# chroma_sample_loc_type of H.264 and HEVC (H.273, section 8.7); chroma_sample_position of AV1
_LOCATIONS: dict[str, dict[int, ChromaLocation]] = {
    "chroma_sample_loc_type_top_field": {
        0: "left", 1: "center", 2: "topleft", 3: "top", 4: "bottomleft", 5: "bottom",
    },
    "chroma_sample_position": {1: "left", 2: "topleft"},
}  # fmt: skip
_CENTRED_CODECS = {"mjpeg", "mpeg1video", "h261", "h263", "flv"}


class Tags(Protocol):
    """A frame or a codec context of PyAV."""

    colorspace: Any
    color_range: Any
    color_trc: Any
    color_primaries: Any
    width: int
    format: Any


def colour_of(source: Tags, height: int, *, chroma_location: ChromaLocation | None = None) -> tuple[Colour, list[str]]:
    """The colours of a film `height` pixels high, and in words what had to be guessed.

    `source` is a decoded frame, or a codec context. Without tags, films of high definition are BT.709 and smaller ones
    BT.601, as players take them; BT.2020 primaries or an HDR transfer mean BT.2020. The result always names a matrix
    and a range, and the output should be tagged with both: an enlarged film has another size to guess from.
    """
    name = source.format.name
    chroma = pixel_format(name).chroma
    notes: list[str] = []
    matrix: Matrix
    matrix, code = ("identity", 0) if chroma == "rgb" else _matrix(source, height, notes)
    tagged_range = int(source.color_range)
    full_range = tagged_range == _FULL or name.startswith("yuvj") or chroma == "rgb"
    if tagged_range not in (_FULL, _LIMITED) and not full_range:
        full_range = chroma == "grey"
        notes.append(f"the range of values is not tagged: {'full' if full_range else 'limited'} range is assumed")
    colour = Colour(
        matrix=matrix,
        full_range=full_range,
        chroma_location=chroma_location or "left",
        matrix_code=code,
        transfer=int(source.color_trc),
        primaries=int(source.color_primaries),
    )
    return colour, notes


def _matrix(source: Tags, height: int, notes: list[str]) -> tuple[Matrix, int]:
    """(what to compute, what to tag)."""
    code = int(source.colorspace)
    if code in _MATRICES:
        return _MATRICES[code], code
    primaries = int(source.color_primaries)
    matrix: Matrix
    if primaries == _BT2020 or int(source.color_trc) in _HDR:
        matrix, why = "bt2020", "from its other tags"
    elif primaries in _BT601_PRIMARIES:
        matrix, why = "bt601", "from its other tags"
    else:
        matrix = "bt709" if height >= 720 or source.width >= 1280 else "bt601"
        why = f"from its size, {source.width}x{height}"
    what = (
        "has no colour matrix tagged" if code == UNSPECIFIED else f"is tagged with colour matrix {code}, unknown here"
    )
    notes.append(f"the film {what}: {_NAMES[matrix]} is assumed {why}")
    # a wrong matrix there and back changes no colour, so a tag that we cannot follow is still the right one
    return matrix, _CODES[matrix] if code in (UNSPECIFIED, 0) else code


def stated_chroma_location(path: Path, index: int = 0) -> ChromaLocation | None:
    """Where the headers of video stream `index` say that chroma stands, or what its codec always means; else None.

    H.264, HEVC and AV1 can say it. FFmpeg decodes it and PyAV does not show it, but a filter that prints headers does.
    """
    with av.open(f"file:{path}") as container:  # whatever its name
        stream = container.streams.video[index]
        if stream.codec_context.name in _CENTRED_CODECS:
            return "center"
        level = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        try:
            with av.logging.Capture() as lines:
                printer = BitStreamFilterContext("trace_headers", stream)
                for packet in container.demux(stream):
                    if packet.size:
                        printer.filter(packet)
                        break
        except av.FFmpegError:  # not a codec that the filter knows, or no packet
            return None
        finally:
            av.logging.set_level(level)
    for _, _, text in lines:
        name, _, value = text.rpartition("=")
        for field, meanings in _LOCATIONS.items():
            if re.search(rf"\b{field}\b", name):
                return meanings.get(int(value))
    return None
