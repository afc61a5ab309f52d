"""The finished film against its source: frames, times, streams and their offsets, read from the files themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from realesr_cli.video.encoding import Encoding
from realesr_cli.video.mux import Part
from realesr_cli.video.probe import VideoInfo, opened, video_stream
from realesr_cli.video.streams import StreamPlan
from realesr_cli.video.writer import Segment

# Matroska counts milliseconds; two streams that are each rounded differ by less than two.
_ROUNDING_S = Fraction(2, 1000)
# It counts whole pixels of the shape in which pictures are shown.
_ROUNDED_ASPECT = Fraction(1, 50)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the packets of a file say."""

    frames: int
    first_s: Fraction
    last_s: Fraction
    starts: dict[int, Fraction]
    """First time of each other stream by index."""
    counts: dict[int, int]
    kinds: list[str]
    aspect: Fraction
    """Of its pixels."""


def differences(
    source: VideoInfo, target: Path, segments: Sequence[Segment], encoding: Encoding, plan: StreamPlan, part: Part
) -> list[str]:
    """What of the result is not as it should be, in words; empty if it is as its source. Raises: UnreadableInput."""
    found: list[str] = []
    made = _facts(target)
    frames = sum(len(segment.times) for segment in segments)
    if made.frames != frames:
        found.append(f"{made.frames} frames instead of {frames}")
    begin = segments[0].times[0] * encoding.time_base - part.shift_s
    end = segments[-1].times[-1] * encoding.time_base - part.shift_s
    # a container that knows no times below zero moves all streams alike
    moved = made.first_s - begin
    if abs(made.last_s - moved - end) > _ROUNDING_S:
        found.append(f"the last frame is shown at {float(made.last_s):.3f} s instead of {float(end):.3f} s")
    aspect = encoding.sample_aspect or Fraction(1)
    if abs(made.aspect / aspect - 1) > _ROUNDED_ASPECT:
        found.append(f"the shape of pixels is {made.aspect} instead of {aspect}")
    others = (*plan.copied, *(stream for stream, _ in plan.converted))
    expected = ["video", *(stream.kind for stream in others if stream.kind != "data")]
    if sorted(made.kinds) != sorted(expected):
        found.append(f"streams are {', '.join(made.kinds)} instead of {', '.join(expected)}")
    elif part.whole:
        found += _against_source(_facts(source.path), made, source, plan, begin, part)
    return found


def _against_source(
    was: _Facts, made: _Facts, source: VideoInfo, plan: StreamPlan, begin: Fraction, part: Part
) -> list[str]:
    found = []
    timed = [s for s in plan.copied if s.kind in ("audio", "subtitle")]
    indices = sorted(made.counts)
    for stream, index in zip(sorted(timed, key=lambda s: s.index), indices, strict=False):
        if was.counts.get(stream.index, 0) != made.counts[index]:
            found.append(f"{stream} has {made.counts[index]} packets instead of {was.counts.get(stream.index, 0)}")
        elif made.counts[index]:
            offset_before = was.starts[stream.index] - part.shift_s - begin
            offset = made.starts[index] - made.first_s
            if abs(offset - offset_before) > _ROUNDING_S:
                found.append(
                    f"{stream} begins {float((offset - offset_before) * 1000):+.0f} ms off against the pictures"
                )
    return found


def _facts(path: Path) -> _Facts:
    counts: dict[int, int] = {}
    starts: dict[int, Fraction] = {}
    with opened(path) as container:
        pictures = video_stream(container, path)
        picture, aspect = pictures.index, Fraction(pictures.sample_aspect_ratio or 1)
        kinds = [_kind(s) for s in container.streams if s.type != "data"]
        times = []
        for stream in container.streams:
            if stream.type in ("audio", "subtitle"):
                counts[stream.index] = 0
        wanted = [s for s in container.streams if s.index == picture or s.index in counts]
        try:
            for packet in container.demux(wanted):
                time = packet.pts if packet.pts is not None else packet.dts
                if not packet.size or time is None:
                    continue
                if packet.stream_index == picture:
                    if not packet.is_discard:
                        times.append(time * packet.time_base)
                else:
                    counts[packet.stream_index] += 1
                    before = starts.get(packet.stream_index)
                    at = time * packet.time_base
                    starts[packet.stream_index] = at if before is None else min(before, at)
        except av.FFmpegError:
            pass  # the reader has counted and told it
    first, last = (min(times), max(times)) if times else (Fraction(0), Fraction(0))
    return _Facts(len(times), first, last, starts, counts, kinds, aspect)


def _kind(stream: Any) -> str:
    if stream.type == "video" and stream.disposition & Disposition.attached_pic:
        return "cover"
    return str(stream.type)
