"""Small films for tests, made with PyAV."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

TICK = Fraction(1, 90000)


@dataclass(frozen=True)
class Read:
    """What a film holds when it is decoded again."""

    times: list[Fraction]
    frames: list[NDArray[Any]]
    """RGB, by libswscale, which knows the tags."""
    streams: list[tuple[str, str]]


def picture(index: int, height: int, width: int) -> NDArray[np.uint8]:
    """A smooth gradient with a square that moves."""
    y, x = np.mgrid[0:height, 0:width]
    frame = np.stack([40 + 100 * x // width, 60 + 120 * y // height, np.full_like(x, 90)], 2).astype(np.uint8)
    left = 3 * index % max(1, width - 12)
    frame[8:20, left : left + 12] = (220, 60, 50)
    return frame


def write_clip(
    path: Path,
    *,
    count: int = 12,
    times: Sequence[int] | None = None,
    size: tuple[int, int] = (48, 64),
    encoder: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: Fraction = Fraction(25),
    tick: Fraction = TICK,
    options: dict[str, str] | None = None,
    colour: tuple[int, int, int, int] | None = (1, 1, 1, 1),
    sample_aspect: Fraction | None = None,
    rotation: int | None = None,
    audio_at: Sequence[Fraction] = (),
    still: bool = False,
    noise: bool = False,
    extras: bool = False,
) -> Path:
    """Frames at `times` (ticks); `colour` is (matrix, range, primaries, transfer); audio streams begin at `audio_at`.

    `extras` adds subtitles, chapters, tags and, to Matroska, an attachment.
    """
    times = times if times is not None else [round(i / rate / tick) for i in range(count)]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoder, rate=rate)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = size[1], size[0], pixel_format
        context.time_base = stream.time_base = tick
        stream.options = {"preset": "ultrafast", **(options or {})} if encoder.startswith("libx26") else options or {}
        if colour is not None:
            context.colorspace, context.color_range, context.color_primaries, context.color_trc = colour
        if sample_aspect is not None:
            context.sample_aspect_ratio = sample_aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        sounds = [_audio(container, number) for number in range(len(audio_at))]
        subtitle: Any = None
        if extras:
            container.metadata["title"] = "Größe"
            subtitle = container.add_stream("mov_text" if path.suffix in (".mp4", ".mov") else "subrip")
            subtitle.codec_context.subtitle_header = b"[Script Info]\n\n[V4+ Styles]\n\n[Events]\n"
            subtitle.metadata["language"] = "ger"
            container.set_chapters(
                [
                    {"id": n, "start": n * 200, "end": n * 200 + 200, "time_base": Fraction(1, 1000),
                     "metadata": {"title": f"Part {n}"}}
                    for n in range(2)
                ]
            )  # fmt: skip
            if path.suffix == ".mkv":
                container.add_attachment("font.ttf", "application/x-truetype-font", b"\0\1\0\0 a font")
        matrix, full = (colour or (1, 1, 1, 1))[:2]
        for index, pts in enumerate(times):
            pixels = picture(0 if still else index, *size)
            if noise:
                pixels += np.random.default_rng(index).integers(0, 20, pixels.shape, np.uint8)
            rgb = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = rgb.reformat(
                format=pixel_format,
                dst_colorspace=matrix,
                src_color_range=2,
                dst_color_range=full or 1,
                threads=1,
            )
            frame.pts, frame.time_base = pts, tick
            following = times[index + 1] if index + 1 < len(times) else pts + round(1 / rate / tick)
            frame.duration = following - pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        length = times[-1] * tick + 1 / rate
        for sound, begin in zip(sounds, audio_at, strict=True):
            _write_audio(container, sound, begin, length)
        if subtitle is not None:
            for number in range(2):
                text = av.subtitles.subtitle.SubtitleSet.create(
                    text=f"{number},0,Default,,0,0,0,,Line {number}".encode(), start=0, end=100
                )
                packet = subtitle.codec_context.encode_subtitle(text)
                packet.time_base, packet.pts, packet.dts = Fraction(1, 1000), 200 * number, 200 * number
                packet.duration, packet.stream = 100, subtitle
                container.mux(packet)
    return path


def _audio(container: Any, number: int) -> Any:
    stream = container.add_stream("aac", rate=48000)
    stream.metadata["language"] = ("eng", "ger")[number % 2]
    return stream


def _write_audio(container: Any, stream: Any, begin: Fraction, end: Fraction) -> None:
    place = round(begin * 48000)
    while place < end * 48000:
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, place, Fraction(1, 48000)
        container.mux(stream.encode(frame))
        place += 1024
    container.mux(stream.encode(None))


def read_clip(path: Path) -> Read:
    """The film decoded again."""
    times: list[Fraction] = []
    frames: list[NDArray[Any]] = []
    with av.open(str(path)) as container:
        streams = [(s.type, s.codec_context.name if s.codec_context else "") for s in container.streams]
        for frame in container.decode(video=0):
            assert frame.pts is not None and frame.time_base is not None
            times.append(frame.pts * frame.time_base)
            frames.append(frame.to_ndarray(format="rgb24"))
    return Read(times, frames, streams)


def packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    """(time, content) of the packets of all streams of a kind, stream by stream."""
    found = []
    with av.open(str(path)) as container:
        numbers = [s.index for s in container.streams if s.type == kind]
    for number in numbers:
        with av.open(str(path)) as container:
            for packet in container.demux(container.streams[number]):
                if packet.size and packet.stream_index == number and packet.pts is not None:
                    found.append((packet.pts * packet.time_base, bytes(packet)))
    return found
