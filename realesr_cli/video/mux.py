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

from realesr_cli.errors import EncodeFailed
from realesr_cli.video.encoding import Encoding
from realesr_cli.video.probe import VideoInfo, opened
from realesr_cli.video.streams import StreamPlan
from realesr_cli.video.transcode import Converter, converter_for
from realesr_cli.video.writer import Segment, encode_error

# What describes the file that was, not the film.
_FILE_TAGS = ("major_brand", "minor_version", "compatible_brands", "encoder")
_STREAM_TAGS = ("encoder", "bps", "duration", "number_of_frames", "number_of_bytes", "_statistics_")

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
        with opened(info.path) as source, av.open(str(target), "w", format=plan.container.format,
                                                  container_options=_muxer_options(plan, info)) as output:
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
    except (av.FFmpegError, OSError, ValueError) as error:
        raise encode_error(error, target) from error


def _muxer_options(plan: StreamPlan, info: VideoInfo) -> dict[str, str]:
    if plan.container.format == "mpegts":
        return {"mpegts_copyts": "1"} if info.container == "mpegts" else {}
    return {}


def _picture_stream(output: Any, first: Any, encoding: Encoding, source: Any) -> Any:
    stream = output.add_stream_from_template(first, opaque=True)
    stream.time_base = encoding.time_base
    context = stream.codec_context
    context.colorspace, context.color_range = encoding.colorspace, encoding.color_range
    context.color_primaries, context.color_trc = encoding.color_primaries, encoding.color_trc
    if encoding.sample_aspect is not None:
        context.sample_aspect_ratio = encoding.sample_aspect
    if encoding.display_matrix is not None:
        stream.set_display_matrix(encoding.display_matrix)
    stream.disposition = source.disposition
    stream.metadata.update(_kept(source.metadata, _STREAM_TAGS))
    return stream


def _pictures(segments: Sequence[Segment], encoding: Encoding, part: Part, stream: Any) -> Iterator[_Timed]:
    """The pieces' packets with the frames' own times, and decoding times that rise through the whole film."""
    delay = max(_reordering(segment, encoding) for segment in segments)
    shift = round(part.shift_s / encoding.time_base)
    before: list[int] = []  # the last times of the pieces so far
    for number, segment in enumerate(segments):
        shown = _shown(segment, encoding)
        ordered = sorted(shown)
        following = segments[number + 1].first_pts if number + 1 < len(segments) else None
        until = segment.last_pts + segment.last_duration if following is None else following
        ends = dict(zip(ordered, [*ordered[1:], until], strict=True))
        # frames before the first are as far apart as its followers
        lead = ordered if len(ordered) > delay else [ordered[0] + i for i in range(delay + 1)]
        dts = (before or [ordered[0] - lead[delay] + lead[i] for i in range(delay)]) + ordered
        with opened(segment.path) as container:
            source = container.streams.video[0]
            index = 0
            for packet in container.demux(source):
                if not packet.size:
                    continue
                pts = shown[index]
                packet.pts, packet.dts, packet.duration = pts - shift, dts[index] - shift, ends[pts] - pts
                packet.time_base = encoding.time_base
                packet.stream = stream
                yield float(packet.dts * encoding.time_base), 0, packet
                index += 1
        before = dts[len(dts) - delay :] if delay else []


def _shown(segment: Segment, encoding: Encoding) -> list[int]:
    """When each packet of a piece is shown, in the order in which they are stored."""
    with opened(segment.path) as container:
        stream = container.streams.video[0]
        ticks = [round(p.pts * stream.time_base / encoding.time_base) for p in container.demux(stream) if p.size]
    if len(ticks) != segment.frames:
        raise EncodeFailed(
            f"{segment.path} holds {len(ticks)} frames, not {segment.frames}", hint="delete its folder and start again"
        )
    return [segment.first_pts + tick for tick in ticks]


def _reordering(segment: Segment, encoding: Encoding) -> int:
    """How many frames a packet may be decoded before its turn to be shown."""
    shown = _shown(segment, encoding)
    rank = {pts: place for place, pts in enumerate(sorted(shown))}
    return max(place - rank[pts] for place, pts in enumerate(shown))


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
    if not part.whole:
        source.seek(int((part.begin_s - 10) * 1_000_000), backward=True)
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
        is_cover = packet.stream.type == "video"
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
    kept = []
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

