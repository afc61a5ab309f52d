"""Frames of a film, one after the other, each with the time at which it is shown.

Traps: a decoder hands frames out late and in another order than it takes packets; a damaged packet raises, or just
gives nothing; raw streams know no times; seeking lands on a key frame before the place, or nowhere at all.
"""

import heapq
import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.codec.hwaccel import HWAccel
from av.filter import Graph

from realesr_cli.errors import UnreadableInput, UnsupportedInput, UsageError
from realesr_cli.options import VideoOptions
from realesr_cli.reporting import Reporter
from realesr_cli.video.frames import frame_of, planes_of
from realesr_cli.video.probe import VideoInfo, opened, unreadable

# A film of which more packets than this share are damaged is given up, but not at its first few.
_MOST_DAMAGED = 0.5
_FEW_PACKETS = 50
# Film that is decoded again before the place to go on from: filters look back, and open GOPs need what came before.
_RUN_UP_S = 1
# What a film may lack at its end, in frames, before it counts as cut off: containers round.
_ROUNDING_FRAMES = 3


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture and when it is shown, in ticks of the reader's time base."""

    image: av.VideoFrame
    pts: int
    duration: int


class FrameReader:
    """Iterates over the frames that the options ask for; their times never go back.

    `time_base` is that of the frames; the counters tell what had to be done to read them.
    """

    def __init__(self, info: VideoInfo, options: VideoOptions, reporter: Reporter) -> None:
        self.damaged = 0
        """Packets that could not be decoded."""
        self.repeated = 0
        """Frames shown again in the place of damaged ones."""
        self.invented = 0
        """Frames whose time was missing or went back."""
        self.missing_s = Fraction(0)
        """How much earlier than it says the film ends."""
        self._info = info
        self._options = options
        self._reporter = reporter
        self._filter = _deinterlacer(info, options)
        if options.fps is not None:
            self.time_base = 1 / options.fps
        else:
            # filters may make two frames of one
            self.time_base = info.time_base / 2 if self._filter else info.time_base
        self.start_s, self.end_s = span(info, options)

    @property
    def is_regular(self) -> bool:
        """Whether frames have the same times when reading begins elsewhere."""
        return not (self.damaged or self.invented)

    def frames(self, *, after: int | None = None, seek: bool = True) -> Generator[Frame]:
        """The frames from the beginning, or those later than the tick `after`; with `seek`, without reading all before.

        Raises: UnreadableInput, UnsupportedInput (the size changes in the middle).
        """
        begin = self.start_s if after is None else max(self.start_s, after * self.time_base)
        if seek and begin - _RUN_UP_S > self._info.start:
            frames = self._from(begin - _RUN_UP_S)
            first = next(frames, None)
            if first is not None and first.pts * self.time_base <= begin and self.is_regular:
                yield from (f for f in _chain(first, frames) if after is None or f.pts > after)
                return
            self.damaged = self.repeated = self.invented = 0
        yield from (f for f in self._from(None) if after is None or f.pts > after)

    def frame_at(self, time_s: Fraction) -> Frame | None:
        """The frame that is shown at a time on the clock of the film's time stamps; None if there is none then."""
        for place_s in (time_s - _RUN_UP_S, None):
            shown: Frame | None = None
            for frame in self._from(place_s):
                time_reached = frame.pts * self.time_base > time_s
                if time_reached and shown is not None:
                    return shown
                if time_reached and place_s is not None:
                    break  # the seek went too far
                shown = frame
                if time_reached:
                    return frame  # the film begins later
            else:
                ends_s = None if shown is None else (shown.pts + shown.duration) * self.time_base
                if ends_s is not None and time_s < ends_s:
                    return shown
        return None

    def _from(self, place_s: Fraction | None) -> Iterator[Frame]:
        frames = self._timed(self._decoded(place_s))
        if self._options.fps is not None:
            frames = _at_rate(frames, self._options.fps, self._tick)
        for frame in frames:
            time_s = frame.pts * self.time_base
            if time_s >= self.end_s:
                return
            if time_s >= self.start_s or place_s is not None:
                yield frame

    @property
    def _tick(self) -> Fraction:
        """Seconds of a tick before a change of the frame rate."""
        return self._info.time_base / 2 if self._filter else self._info.time_base

    def _timed(self, images: Iterable[av.VideoFrame]) -> Iterator[Frame]:
        """Gives each picture a time after the one before."""
        info, tick = self._info, self._tick
        step = max(1, round(1 / info.frame_rate / tick))
        last: int | None = None
        for image in images:
            ticks = image.pts if image.pts is not None else image.dts
            pts = None if ticks is None else round(ticks * (image.time_base or info.time_base) / tick)
            if pts is None:
                pts = round(info.start / tick) if last is None else last + step
                self._tell_invented("frames without a time are shown at the average rate")
            elif last is not None and pts <= last:
                pts = last + 1
                self._tell_invented("frames whose time goes back are shown right after the one before")
            duration = round(image.duration * info.time_base / tick) if image.duration else step
            yield Frame(image, pts, duration)
            last = pts

    def _tell_invented(self, message: str) -> None:
        self.invented += 1
        if self.invented == 1:
            self._warn("times", f"{self._info.path}: {message}")

    def _warn(self, code: str, message: str, hint: str | None = None) -> None:
        self._reporter.emit("warning", code=code, message=message, hint=hint)

    # --- decoding -----------------------------------------------------------------------------------------------------

    def _decoded(self, place_s: Fraction | None) -> Iterator[av.VideoFrame]:
        info = self._info
        with opened(info.path, **self._hardware()) as container:
            stream: Any = container.streams[info.stream_index]
            stream.thread_type = "AUTO"
            if place_s is not None:
                try:
                    container.seek(int(place_s / info.time_base), stream=stream, backward=True)
                except av.FFmpegError:
                    return  # the caller then reads from the beginning
            images: Iterator[av.VideoFrame] = self._tolerant(container, stream, whole=place_s is None)
            if self._filter is not None:
                images = _filtered(images, stream, *self._filter)
            yield from images

    def _hardware(self) -> dict[str, Any]:
        """The argument of `opened` for --hwaccel, empty where the device is not there."""
        name = self._options.hwaccel
        if name is None:
            return {}
        try:
            hardware = {"hwaccel": HWAccel(name, allow_software_fallback=False)}
            with opened(self._info.path, **hardware):
                return hardware
        except (OSError, ValueError, RuntimeError, UnreadableInput):
            self._warn("hwaccel", f"--hwaccel {name} does not work here: the CPU decodes")
            return {}

    def _tolerant(self, container: Any, stream: Any, *, whole: bool) -> Iterator[av.VideoFrame]:
        """Pictures in the order in which they are shown; where packets are damaged, the one before again."""
        waiting: list[int] = []  # times of packets whose pictures have not come out yet
        packets = 0
        kept: av.VideoFrame | None = None
        for packet in self._packets(container, stream):
            if packet.size:
                packets += 1
                if packet.pts is not None and not packet.is_discard:
                    heapq.heappush(waiting, packet.pts)
            for image in self._images(packet, packets):
                if kept is not None and (kept.width, kept.height) != (image.width, image.height):
                    raise self._size_change((kept.width, kept.height), image)
                if image.is_corrupt:
                    self.damaged += 1
                    if kept is not None and image.pts is not None:
                        continue  # it counts as lost, and the last good one stands in for it
                yield from self._lost(waiting, kept, image.pts)
                kept = image
                yield image
        yield from self._lost(waiting, kept, None if not waiting else max(waiting) + 1)
        if whole:
            self._tell_missing(stream, kept)

    def _images(self, packet: Any, packets: int) -> list[av.VideoFrame]:
        """What comes out of the decoder for the packet, which is the last of so many."""
        try:
            images: list[av.VideoFrame] = packet.decode()
        except av.EOFError:
            return []
        except av.FFmpegError:
            self.damaged += 1
            if packets > _FEW_PACKETS and self.damaged > _MOST_DAMAGED * packets:
                path = self._info.path
                raise UnreadableInput(
                    f"cannot read {path}: {self.damaged} of the first {packets} packets are damaged", path=path
                ) from None
            return []
        return images

    def _lost(self, waiting: list[int], kept: av.VideoFrame | None, pts: int | None) -> Iterator[av.VideoFrame]:
        """The picture `kept` again at each time before `pts` of whose packets nothing came out."""
        while waiting and pts is not None and waiting[0] <= pts:
            lost = heapq.heappop(waiting)
            # where nothing is damaged, a packet without a picture has none: fields, hidden frames
            if kept is not None and self.damaged and lost < pts and (kept.pts is None or lost > kept.pts):
                yield self._again(kept, lost)

    def _size_change(self, shape: tuple[int, int], image: av.VideoFrame) -> UnsupportedInput:
        message = f"{self._info.path} changes its size from {shape[0]}x{shape[1]} to {image.width}x{image.height}"
        if image.pts is None or image.time_base is None:
            return UnsupportedInput(message, hint="cut the film there", path=self._info.path)
        at_s = float(image.pts * image.time_base - self._info.start)
        return UnsupportedInput(
            f"{message} after {at_s:.3f} s",
            hint=f"upscale the parts one by one: --end {at_s:.3f}, then --start {at_s:.3f}",
            path=self._info.path,
        )

    def _packets(self, container: Any, stream: Any) -> Iterator[Any]:
        """All packets, going on after those that the container cannot read."""
        while True:
            try:
                yield from container.demux(stream)
            except av.FFmpegError as error:
                self.damaged += 1
                if self.damaged > _FEW_PACKETS:
                    raise unreadable(self._info.path, error) from error
            else:
                return

    def _again(self, image: av.VideoFrame, pts: int) -> av.VideoFrame:
        self.repeated += 1
        again = frame_of(planes_of(image), image.format.name)
        again.pts, again.time_base = pts, image.time_base
        return again

    def _tell_missing(self, stream: Any, last: av.VideoFrame | None) -> None:
        """Notices a film that was cut off: its index promises more than can be read."""
        if last is None or last.pts is None or not stream.duration:
            return
        end = (stream.start_time or 0) + stream.duration
        lacks_s = (end - last.pts) * self._info.time_base - 1 / self._info.frame_rate
        if lacks_s > _ROUNDING_FRAMES / self._info.frame_rate and lacks_s > Fraction(1, 10):
            self.missing_s = lacks_s


def span(info: VideoInfo, options: VideoOptions) -> tuple[Fraction, Fraction]:
    """(begin, end) of the part that was asked for, on the clock of the film's time stamps.

    Raises: UsageError (a preview of a film of unknown length, or a part beyond its end).
    """
    begin, end = info.start + (options.start or 0), info.start + (options.end or 10**9)
    if options.preview_s is not None:
        if info.duration is None:
            raise UsageError(
                f"{info.path} does not say how long it is, so --preview does not find its middle",
                hint="use --start and --end",
            )
        begin = info.start + max(Fraction(0), (info.duration - options.preview_s) / 2)
        end = begin + options.preview_s
    if info.duration is not None and options.start is not None and options.start >= info.duration:
        raise UsageError(f"--start {float(options.start):g} is beyond the end of {info.path}")
    return (begin if options.start or options.preview_s else Fraction(-(10**9))), end


def _deinterlacer(info: VideoInfo, options: VideoOptions) -> tuple[str, str] | None:
    """(name, arguments) of the filter that makes whole frames of fields. Raises: UsageError."""
    if options.deinterlace == "off" or (options.deinterlace == "auto" and not info.is_interlaced):
        return None
    name, _, arguments = ("bwdif=mode=send_frame" if options.deinterlace == "auto" else options.deinterlace).partition(
        "="
    )
    try:
        Graph().add(name, arguments or None)
    except (ValueError, av.FFmpegError) as error:
        raise UsageError(
            f"--deinterlace {options.deinterlace} is no filter that works here ({error})",
            hint="auto, off, or an FFmpeg filter such as yadif or bwdif=mode=send_frame",
        ) from error
    return name, arguments


def _filtered(images: Iterable[av.VideoFrame], stream: Any, name: str, arguments: str) -> Iterator[av.VideoFrame]:
    graph: Graph | None = None
    for image in images:
        if graph is None:
            graph = Graph()
            source = graph.add_buffer(
                width=image.width, height=image.height, format=image.format, time_base=stream.time_base
            )
            graph.link_nodes(source, graph.add(name, arguments or None), graph.add("buffersink")).configure()
        graph.vpush(image)
        yield from _pulled(graph)
    if graph is not None:
        graph.vpush(None)
        yield from _pulled(graph)


def _pulled(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (BlockingIOError, EOFError):
            return


def _at_rate(frames: Iterable[Frame], rate: Fraction, tick: Fraction) -> Iterator[Frame]:
    """Frames at a constant rate, with ticks of one frame: at each point of the grid the one that is shown then."""
    shown: Frame | None = None
    place = 0
    for frame in frames:
        if shown is None:
            place = math.ceil(frame.pts * tick * rate)
        else:
            while place < frame.pts * tick * rate:
                yield Frame(shown.image, place, 1)
                place += 1
        shown = frame
    while shown is not None and place < (shown.pts + shown.duration) * tick * rate:
        yield Frame(shown.image, place, 1)
        place += 1


def _chain(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from rest
