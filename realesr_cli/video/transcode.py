"""Audio and text subtitles in another format, for containers that do not hold theirs (`--on-unsupported transcode`)."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.audio.fifo import AudioFifo
from av.audio.resampler import AudioResampler
from av.subtitles.subtitle import SubtitleSet

_AUDIO_BITS_PER_CHANNEL = 96_000
_OPUS_RATE = 48_000
_ASS_HEADER = (
    b"[Script Info]\nScriptType: v4.00+\nPlayResX: 384\nPlayResY: 288\n\n[V4+ Styles]\n"
    b"Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, "
    b"Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, "
    b"MarginR, MarginV, Encoding\nStyle: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,"
    b"10,10,0\n\n[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
)


class _Audio:
    def __init__(self, output: Any, source: Any, encoder: str) -> None:
        context = source.codec_context
        rate = _OPUS_RATE if encoder == "libopus" else context.sample_rate
        self.stream = output.add_stream(encoder, rate=rate)
        new = self.stream.codec_context
        new.layout = context.layout
        new.bit_rate = _AUDIO_BITS_PER_CHANNEL * context.layout.nb_channels
        new.time_base = Fraction(1, rate)
        self._resampler = AudioResampler(format=new.format, layout=new.layout, rate=rate)
        self._fifo = AudioFifo()
        self._done = False
        self._next_pts: int | None = None

    def convert(self, packet: Any, begin_s: Fraction, end_s: Fraction, shift_s: Fraction) -> Iterator[Any]:
        try:
            frames = packet.decode()
        except av.FFmpegError:
            frames = []
        for frame in frames:
            if frame.pts is None or not begin_s <= frame.pts * frame.time_base < end_s:
                continue
            frame.pts -= round(shift_s / frame.time_base)
            yield from self._encoded(frame)
        if not packet.size and not self._done:
            self._done = True
            yield from self._encoded(None)
            yield from self._packets(None)

    def _encoded(self, frame: Any) -> Iterator[Any]:
        for resampled in self._resampler.resample(frame):
            if self._next_pts is None:
                self._next_pts = resampled.pts or 0
            resampled.pts = None  # the fifo counts samples by itself, and takes a gap for an error
            self._fifo.write(resampled)
        size = self.stream.codec_context.frame_size or 1024
        while (piece := self._fifo.read(size, partial=frame is None)) is not None:
            piece.pts, piece.time_base = self._next_pts, Fraction(1, piece.sample_rate)
            self._next_pts = (self._next_pts or 0) + piece.samples
            yield from self._packets(piece)

    def _packets(self, frame: Any) -> Iterator[Any]:
        for packet in self.stream.encode(frame):
            packet.stream = self.stream
            yield packet


class _Subtitles:
    def __init__(self, output: Any, source: Any, encoder: str) -> None:
        self.stream = output.add_stream(encoder)
        self._context = source.codec_context
        header = self._context.subtitle_header or self._context.extradata or b""
        self.stream.codec_context.subtitle_header = header if b"[Events]" in header else _ASS_HEADER

    def convert(self, packet: Any, begin_s: Fraction, end_s: Fraction, shift_s: Fraction) -> Iterator[Any]:
        if not packet.size or packet.pts is None or not begin_s <= packet.pts * packet.time_base < end_s:
            return
        try:
            read = self._context.decode2(packet)
        except av.FFmpegError:
            return
        texts = [rect.ass for rect in read.rects if getattr(rect, "ass", None)] if read is not None else []
        if not texts:
            return
        length_ms = int((packet.duration or 0) * packet.time_base * 1000)
        written = SubtitleSet.create(text=texts[0], start=0, end=length_ms)
        new = self.stream.codec_context.encode_subtitle(written)
        new.time_base = packet.time_base
        new.pts = new.dts = packet.pts - round(shift_s / packet.time_base)
        new.duration = packet.duration
        new.stream = self.stream
        yield new


Converter = _Audio | _Subtitles
"""Packets of one stream in, packets of its `stream` out: `convert` gives new ones for a packet of the source, which is
empty at the end, and only of what lies between `begin_s` and `end_s`."""


def converter_for(output: Any, source: Any, encoder: str) -> Converter:
    """What turns the stream into one of `encoder`'s format, which it adds to `output`."""
    return _Audio(output, source, encoder) if source.type == "audio" else _Subtitles(output, source, encoder)
