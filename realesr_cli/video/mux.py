"""The pieces of the film and the source's other streams become one file; nothing is encoded anew but on request.

Traps: FFmpeg tells flush packets by their size alone; decoding times of pieces do not fit together, so they are made
anew from the times at which frames are shown; Matroska counts milliseconds.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import itemgetter
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from realesr_cli.errors import EncodeFailed
from realesr_cli.video.encoding import Encoding, tag
from realesr_cli.video.matroska import set_display_size
from realesr_cli.video.probe import VideoInfo, address, explained, opened
from realesr_cli.video.streams import StreamPlan
from realesr_cli.video.transcode import Converter, converter_for
from realesr_cli.video.writer import Segment, encode_error

# What describes the file that was, not the film.
_FILE_TAGS = ("major_brand", "minor_version", "compatible_brands", "encoder")
_STREAM_TAGS = ("encoder", "bps", "duration", "number_of_frames", "number_of_bytes", "_statistics_", "alpha_mode")

_BEFORE_S = 10

# Codecs whose streams say that their pixels are not square.
_TELL_ASPECT = ("h264", "hevc")

_Timed = tuple[float, int, Any]
"""(seconds, order among equals, packet whose stream is set)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What of the source goes into the result, on the clock of its time stamps, and what is taken off every time."""

    begin_s: Fraction
    end_s: Fraction
    shift_s: Fraction
    whole: bool


def mux(
    segments: Sequence[Segment], info: VideoInfo, encoding: Encoding, plan: StreamPlan, part: Part, target: Path
) -> None:
    """Writes `target` from the pieces and from the source's streams. Raises: EncodeFailed, OutputError, DiskFull."""
    try:
        with (
            explained(),
            opened(info.path) as source,
            av.open(
                address(target), "w", format=plan.container.format, container_options=_muxer_options(plan, info)
            ) as output,
        ):
            output.metadata.update(_kept(info.metadata, _FILE_TAGS))
            if plan.chapters and info.chapters:
                output.set_chapters(_chapters(source, part))
            with opened(segments[0].path) as first:
                picture = _picture_stream(output, first.streams.video[0], encoding, source.streams[info.stream_index])
            routes = _routes(output, source, plan, part)
            packets = heapq.merge(
                _pictures(segments, encoding, part, picture), _others(source, routes, part), key=itemgetter(0, 1)
            )
            for _, _, packet in packets:
                output.mux(packet)
        tells_itself = encoding.codec in _TELL_ASPECT
        if encoding.sample_aspect is not None and plan.container.format == "matroska" and not tells_itself:
            set_display_size(target, round(encoding.width * encoding.sample_aspect), encoding.height)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise encode_error(error, target) from error


def _muxer_options(plan: StreamPlan, info: VideoInfo) -> dict[str, str]:
    if plan.container.format == "mpegts":
        return {"mpegts_copyts": "1"} if info.container == "mpegts" else {}
    # a time code needs a frame rate, which a stream without an encoder cannot be given
    return {"write_tmcd": "0"} if plan.container.format in ("mov", "mp4") else {}


def _picture_stream(output: Any, first: Any, encoding: Encoding, source: Any) -> Any:
    stream = output.add_stream_from_template(first, opaque=True)
    stream.time_base = encoding.time_base
    context = stream.codec_context
    tag(context, encoding.colour)
    if encoding.sample_aspect is not None:
        context.sample_aspect_ratio = encoding.sample_aspect
    if encoding.display_matrix is not None:
        stream.set_display_matrix(encoding.display_matrix)
    stream.disposition = source.disposition
    stream.metadata.update(_kept(source.metadata, _STREAM_TAGS))
    return stream


def _pictures(segments: Sequence[Segment], encoding: Encoding, part: Part, stream: Any) -> Iterator[_Timed]:
    """The pieces' packets with the frames' own times, and decoding times that rise through the whole film."""
    ranks = [_ranks(segment) for segment in segments]
    delay = max(place - rank for order in ranks for place, rank in enumerate(order))
    shift = round(part.shift_s / encoding.time_base)
    before: list[int] = []  # the decoding times that frames of the next piece take over
    for number, (segment, order) in enumerate(zip(segments, ranks, strict=True)):
        times = segment.times
        following = segments[number + 1].times[0] if number + 1 < len(segments) else None
        ends = [*times[1:], times[-1] + segment.last_duration if following is None else following]
        # the first frames are decoded as far before the first is shown as their followers are shown after it
        lead = times if len(times) > delay else range(times[0], times[0] + delay + 1)
        dts = [*(before or [times[0] - lead[delay] + lead[i] for i in range(delay)]), *times]
        with opened(segment.path) as container:
            packets = (packet for packet in container.demux(container.streams.video[0]) if packet.size)
            for packet, rank, decoded in zip(packets, order, dts, strict=False):
                packet.time_base = encoding.time_base
                packet.pts, packet.dts = times[rank] - shift, decoded - shift
                packet.duration = ends[rank] - times[rank]
                packet.stream = stream
                yield float(packet.dts * encoding.time_base), 0, packet
        before = dts[len(dts) - delay :]


def _ranks(segment: Segment) -> list[int]:
    """For each packet of a piece, in the order in which they are stored, the number of its frame."""
    with opened(segment.path) as container:
        stored = [packet.pts or 0 for packet in container.demux(container.streams.video[0]) if packet.size]
    if len(stored) != len(segment.times):
        raise EncodeFailed(
            f"{segment.path} holds {len(stored)} frames, not {len(segment.times)}",
            hint="delete its folder and start again",
        )
    numbers = {pts: number for number, pts in enumerate(sorted(stored))}
    return [numbers[pts] for pts in stored]


# --- everything else --------------------------------------------------------------------------------------------------


def _routes(output: Any, source: Any, plan: StreamPlan, part: Part) -> dict[int, Any]:
    """Source index -> the new stream, or what converts for one."""
    routes: dict[int, Any] = {}
    converted = {stream.index: encoder for stream, encoder in plan.converted}
    copied = {stream.index for stream in plan.copied}
    for stream in source.streams:
        if stream.index in copied:
            if stream.type == "attachment":
                output.add_attachment(stream.metadata.get("filename", "attachment"), stream.mimetype or "", stream.data)
                continue
            new = output.add_stream_from_template(stream, opaque=True)
            routes[stream.index] = new
        elif stream.index in converted:
            routes[stream.index] = converter_for(output, stream, converted[stream.index])
            new = routes[stream.index].stream
        else:
            continue
        new.disposition = stream.disposition
        new.metadata.update(_kept(stream.metadata, _STREAM_TAGS))
    return routes


def _others(source: Any, routes: dict[int, Any], part: Part) -> Iterator[_Timed]:
    """Packets of the other streams in the order of the file, moved in time like the pictures."""
    wanted = [stream for stream in source.streams if stream.index in routes]
    if not wanted:
        return
    # far enough back for a subtitle that begins earlier; at the beginning of a film seeking loses packets
    place_us = int((part.begin_s - _BEFORE_S) * 1_000_000)
    if not part.whole and place_us > (source.start_time or 0):
        source.seek(place_us, backward=True)
    last: dict[int, int] = {}
    for packet in source.demux(wanted):
        if packet.stream_index not in routes:
            continue  # flush packets come of every stream
        route = routes[packet.stream_index]
        if isinstance(route, Converter):
            for new in route.convert(packet, part.begin_s, part.end_s, part.shift_s):
                yield float((new.dts if new.dts is not None else new.pts or 0) * new.time_base), 1, new
            continue
        if not packet.size:
            continue
        is_cover = bool(packet.stream.disposition & Disposition.attached_pic)
        if not is_cover:
            pts = packet.pts if packet.pts is not None else packet.dts
            if pts is None:
                continue
            if not part.whole and not part.begin_s <= pts * packet.time_base < part.end_s:
                continue
            shift = round(part.shift_s / packet.time_base)
            packet.pts = pts - shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            before = last.get(packet.stream_index)
            if before is not None and packet.dts <= before:  # in damaged files; muxers refuse it
                packet.dts = before + 1
                packet.pts = max(packet.pts, packet.dts)
            last[packet.stream_index] = packet.dts
        packet.stream = route
        yield float((packet.dts or 0) * packet.time_base), 1, packet


def _chapters(source: Any, part: Part) -> list[Any]:
    """The chapters, cut to the part that is kept."""
    kept: list[Any] = []
    for chapter in source.chapters():
        tick = chapter["time_base"]
        shift = round(part.shift_s / tick)
        start, end = chapter["start"] - shift, chapter["end"] - shift
        if not part.whole:
            length = int((part.end_s - part.begin_s) / tick)
            start, end = max(0, start), min(end, length)
        if start < end or part.whole:
            kept.append({**chapter, "id": len(kept), "start": max(0, start), "end": end})
    return kept


def _kept(tags: dict[str, str], unwanted: Sequence[str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if not key.lower().startswith(tuple(unwanted))}
