"""Films: times, streams, colours and shapes survive; what cannot be done is refused before any work."""

import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clips import packets, picture, read_clip, write_clip
from networks import compact, loaded
from realesr_cli import DeviceOptions, SizeOptions, Upscaler, VideoOptions, upscale_video
from realesr_cli.errors import OutputExists, RealesrError, UnreadableInput, UnsupportedInput, UsageError
from realesr_cli.models.compact import SRVGGNetCompact
from realesr_cli.video.probe import probe
from realesr_cli.video.upscale import VideoResult
from recording import Events

SAME_SIZE = SizeOptions(scale=1)
QUICK = VideoOptions(preset="ultrafast", crf=12, segment_frames=5)


@pytest.fixture(scope="module")
def upscaler() -> Iterator[Upscaler]:
    """Its network adds nothing to the pixels it repeats, so that at a film's own size it changes nothing."""
    model = compact()
    last = [module for module in model.network.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    with Upscaler(model, device=DeviceOptions(device="cpu", precision="fp32")) as made:
        yield made


class Run:
    """Upscales to the film's own size, which keeps pictures comparable."""

    def __init__(self, upscaler: Upscaler, folder: Path, events: Events) -> None:
        self._upscaler, self._folder, self._events = upscaler, folder, events

    def __call__(
        self, source: Path, name: str = "", *, size: SizeOptions = SAME_SIZE, options: VideoOptions = QUICK, **more: Any
    ) -> tuple[Path, VideoResult]:
        target = self._folder / (name or f"result{source.suffix}")
        options = dataclasses.replace(options, **more)
        result = upscale_video(source, target, self._upscaler, size=size, options=options, reporter=self._events)
        assert sorted(path.name for path in self._folder.glob(f"*{target.name}*")) == [target.name]
        return target, result


@pytest.fixture
def run(upscaler: Upscaler, tmp_path: Path, events: Events) -> Run:
    return Run(upscaler, tmp_path, events)


# --- time -------------------------------------------------------------------------------------------------------------

VARIABLE = [0, 3600, 7200, 18000, 21601, 45000, 47970, 50940, 90000, 93600, 99999, 140003, 140500]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts"])
def test_every_frame_keeps_its_own_time(run: Run, tmp_path: Path, suffix: str) -> None:
    source = write_clip(tmp_path / f"a{suffix}", times=VARIABLE)
    target, result = run(source)
    before, after = read_clip(source), read_clip(target)
    assert after.times == before.times
    assert result.frames == len(VARIABLE)
    assert result.differences == ()


def test_frames_of_23_976_a_second_stay_on_their_grid(run: Run, tmp_path: Path) -> None:
    rate = Fraction(24000, 1001)
    source = write_clip(tmp_path / "a.mp4", rate=rate, tick=Fraction(1, 24000))
    target, _ = run(source)
    assert read_clip(target).times == [i / rate for i in range(12)]
    with av.open(str(target)) as container:
        assert container.streams.video[0].average_rate == rate


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_sound_that_begins_later_still_does(run: Run, tmp_path: Path, suffix: str) -> None:
    source = write_clip(tmp_path / f"a{suffix}", audio_at=[Fraction(3, 10)], count=20)
    target, result = run(source)
    assert result.differences == ()
    assert packets(target, "audio") == packets(source, "audio")


def test_pictures_that_begin_later_still_do(run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", times=[36000 + t for t in VARIABLE], audio_at=[Fraction(0)])
    target, result = run(source)
    assert read_clip(target).times == read_clip(source).times
    assert read_clip(target).times[0] == Fraction(36000, 90000)
    assert result.differences == ()


@pytest.mark.parametrize(
    ("codec", "suffix"), [("h264", ".mkv"), ("hevc", ".mp4"), ("av1", ".webm"), ("ffv1", ".mkv"), ("prores", ".mov")]
)
def test_pieces_join_to_what_one_piece_holds(run: Run, tmp_path: Path, codec: Any, suffix: str) -> None:
    source = write_clip(tmp_path / "a.mkv", times=[t // 90 for t in VARIABLE], tick=Fraction(1, 1000), size=(96, 96))
    options = VideoOptions(codec=codec, segment_frames=4)
    target, result = run(source, f"result{suffix}", options=options)
    assert result.differences == ()
    after = read_clip(target)
    assert [round(t * 1000) for t in after.times] == [t // 90 for t in VARIABLE]
    for index, frame in enumerate(after.frames):
        assert np.abs(frame.astype(int) - picture(index, 96, 96)).mean() < 6


def test_a_constant_rate_only_if_asked(run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", times=VARIABLE)
    target, result = run(source, fps=Fraction(10))
    times = read_clip(target).times
    assert times == [Fraction(i, 10) for i in range(len(times))]
    assert len(times) == 17  # up to 1.6 s: the last frame begins at 1.561 s and lasts 0.04 s
    assert result.spared > 0


def test_frames_without_times_are_shown_at_the_average_rate(run: Run, tmp_path: Path, events: Events) -> None:
    source = write_clip(tmp_path / "a.h264", tick=Fraction(1, 25), options={"x264-params": "bframes=0"})
    target, result = run(source, "result.mp4")
    assert result.frames == 12
    assert np.diff([float(t) for t in read_clip(target).times]) == pytest.approx([1 / 25] * 11)
    assert [event["code"] for event in events.of("warning")] == ["times"]


def test_a_part_of_a_film_begins_at_zero_in_step(run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", count=50, audio_at=[Fraction(0)], tick=Fraction(1, 1000), extras=True)
    target, _ = run(source, start=Fraction(1, 2), end=Fraction(1))
    assert read_clip(target).times == [Fraction(20 + 40 * i, 1000) for i in range(12)]
    sound = packets(target, "audio")
    before = [(time - Fraction(1, 2), data) for time, data in packets(source, "audio") if Fraction(1, 2) <= time < 1]
    assert sound == before
    preview, result = run(source, "preview.mkv", preview_s=Fraction(2, 5))
    assert result.frames == 10
    assert read_clip(preview).times[0] < Fraction(1, 25)


# --- streams ----------------------------------------------------------------------------------------------------------


def test_everything_beside_the_pictures_is_kept(run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", audio_at=[Fraction(0), Fraction(1, 10)], extras=True)
    target, result = run(source)
    assert result.differences == ()
    for kind in ("audio", "subtitle"):
        assert packets(target, kind) == packets(source, kind)
    with av.open(str(source)) as before, av.open(str(target)) as after:
        assert [(s.type, s.language, s.disposition) for s in after.streams] == [
            (s.type, s.language, s.disposition) for s in before.streams
        ]
        assert after.metadata["title"] == "Größe"
        assert [(c["start"], c["end"], c["metadata"]) for c in after.chapters()] == [
            (c["start"], c["end"], c["metadata"]) for c in before.chapters()
        ]
        assert [(s.name, s.mimetype, s.data) for s in after.streams if s.type == "attachment"] == [
            (s.name, s.mimetype, s.data) for s in before.streams if s.type == "attachment"
        ]


def test_text_subtitles_and_chapters_of_mp4_are_kept(run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", audio_at=[Fraction(0)], extras=True)
    target, result = run(source)
    assert result.differences == ()
    assert packets(target, "subtitle") == packets(source, "subtitle")
    with av.open(str(target)) as after:
        assert [c["metadata"]["title"] for c in after.chapters()] == ["Part 0", "Part 1"]


def test_what_a_container_cannot_hold_is_named_and_refused(run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", extras=True)
    with pytest.raises(UnsupportedInput, match=r"subrip, ger\) and attachment stream 2"):
        run(source, "result.mp4")
    assert not list(tmp_path.glob("result*"))


def test_what_a_container_cannot_hold_is_converted_or_left_out(run: Run, tmp_path: Path, events: Events) -> None:
    source = write_clip(tmp_path / "a.mkv", extras=True, audio_at=[Fraction(0)])
    target, result = run(source, "result.mp4", on_unsupported="transcode")
    assert result.differences == ()
    kinds = [kind for kind, _ in read_clip(target).streams]
    assert kinds[:3] == ["video", "audio", "subtitle"]
    assert b"Line 1" in packets(target, "subtitle")[-1][1] or any(
        b"Line 1" in d for _, d in packets(target, "subtitle")
    )
    assert "attachment stream 3 (unknown) is left out" in events.of("warning")[0]["message"]
    webm, result = run(
        source, "result.webm", on_unsupported="transcode", options=VideoOptions(preset="12"), size=SizeOptions(scale=2)
    )
    assert [kind for kind, _ in read_clip(webm).streams][:3] == ["video", "audio", "subtitle"]
    target, result = run(source, "bare.mp4", on_unsupported="drop")
    assert [kind for kind, _ in read_clip(target).streams][:2] == ["video", "audio"]


def test_a_cover_stays_a_cover(run: Run, media: Any) -> None:
    source = media("clips/attached_cover.mp4")
    target, _ = run(source, end=Fraction(1, 5))
    with av.open(str(source)) as before, av.open(str(target)) as after:
        assert [(s.type, s.disposition) for s in after.streams] == [(s.type, s.disposition) for s in before.streams]
    assert probe(target).streams[-1].kind == "cover"


# --- shape and colour -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_turned_pictures_with_pixels_that_are_not_square_stay_so(run: Run, tmp_path: Path, suffix: str) -> None:
    source = write_clip(tmp_path / f"a{suffix}", rotation=90, sample_aspect=Fraction(64, 45))
    target, _ = run(source)
    before, after = probe(source), probe(target)
    assert after.sample_aspect == Fraction(64, 45)
    assert before.display_matrix is not None
    assert after.display_matrix is not None
    assert after.display_matrix[:6] == before.display_matrix[:6]


@pytest.mark.parametrize(("codec", "aspect"), [("ffv1", "64/45"), ("prores", "12/11"), ("av1", "4/3"), ("h264", "8/9")])
def test_matroska_says_the_shape_of_pixels_whatever_the_codec(
    run: Run, tmp_path: Path, codec: Any, aspect: str
) -> None:
    source = write_clip(tmp_path / "a.mkv", count=12, size=(80, 90), sample_aspect=Fraction(aspect), extras=True)
    assert probe(source).sample_aspect == Fraction(aspect)
    target, result = run(source, "b.mkv", options=VideoOptions(codec=codec))
    assert result.differences == ()
    found = probe(target).sample_aspect
    assert found is not None
    assert float(found) == pytest.approx(float(Fraction(aspect)), rel=0.01)
    assert len(read_clip(target).frames) == 12
    with av.open(str(target)) as container:
        assert [s.type for s in container.streams] == ["video", "subtitle", "attachment"]


def test_a_shape_of_pixels_that_was_lost_is_told(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_clip(tmp_path / "a.mkv", count=3, sample_aspect=Fraction(4, 3))
    monkeypatch.setattr("realesr_cli.video.mux.set_display_size", lambda *_: False)
    _, result = run(source, "b.mkv", options=VideoOptions(codec="prores"))
    assert result.differences == ("the shape of pixels is 1 instead of 4/3",)


def test_where_nothing_can_say_that_pixels_are_not_square_that_is_refused(run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", size=(64, 64), sample_aspect=Fraction(64, 45))
    with pytest.raises(UnsupportedInput, match="not square"):
        run(source, "b.webm", codec="av1", preset=None, crf=None)


def test_a_width_is_that_of_the_upright_picture(run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", rotation=90)
    target, _ = run(source, size=SizeOptions(width=96))
    assert read_clip(target).frames[0].shape == (96, 128, 3)


def test_odd_sides_lose_a_row_and_a_column_where_chroma_wants_it(run: Run, tmp_path: Path, events: Events) -> None:
    source = write_clip(tmp_path / "a.mkv", size=(49, 67), encoder="ffv1")
    target, _ = run(source)
    assert read_clip(target).frames[0].shape == (48, 66, 3)
    assert [event["code"] for event in events.of("warning")] == ["odd_size"]
    target, _ = run(source, "whole.mkv", pixel_format="yuv444p")
    assert read_clip(target).frames[0].shape == (49, 67, 3)


@pytest.mark.parametrize(
    ("colour", "pixel_format"),
    [
        ((1, 1, 1, 1), "yuv420p"),
        ((1, 2, 1, 1), "yuv420p"),
        ((5, 1, 5, 5), "yuv420p"),
        ((6, 2, 6, 6), "yuv444p"),
        ((9, 1, 9, 14), "yuv420p10le"),
        ((1, 1, 1, 1), "yuv422p10le"),
    ],
)
def test_colours_and_their_tags_are_kept(
    run: Run, tmp_path: Path, colour: tuple[int, int, int, int], pixel_format: str
) -> None:
    source = write_clip(tmp_path / "a.mp4", count=4, colour=colour, pixel_format=pixel_format, options={"crf": "6"})
    target, _ = run(source, codec="h264")
    with av.open(str(target)) as container:
        context = container.streams.video[0].codec_context
        tags = (context.colorspace, context.color_range, context.color_primaries, context.color_trc)
        assert (tags, str(context.pix_fmt).replace("yuvj", "yuv")) == (colour, pixel_format)
    for before, after in zip(read_clip(source).frames, read_clip(target).frames, strict=True):
        assert np.abs(before.astype(int).mean((0, 1)) - after.astype(int).mean((0, 1))).max() < 1.5


def test_a_film_without_tags_gets_those_that_were_assumed(run: Run, tmp_path: Path, events: Events) -> None:
    source = write_clip(tmp_path / "a.mp4", colour=None)
    target, _ = run(source, size=SizeOptions(scale=4))
    assert "BT.601 is assumed" in events.of("warning")[0]["message"]
    with av.open(str(target)) as container:
        assert container.streams.video[0].codec_context.colorspace == 6


@pytest.mark.parametrize(("transfer", "codec"), [(16, "hevc"), (18, "hevc"), (16, "av1")])
def test_hdr_keeps_its_depth_its_tags_and_its_mastering_metadata(
    run: Run, tmp_path: Path, transfer: int, codec: Any
) -> None:
    mastering = (
        "hdr10=1:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=900,180"
    )
    source = write_clip(
        tmp_path / "a.mp4", count=4, size=(96, 96), encoder="libx265", pixel_format="yuv420p10le",
        colour=(9, 1, 9, transfer), options={"x265-params": f"log-level=error:{mastering}"},
    )  # fmt: skip
    options = VideoOptions(codec=codec, preset="ultrafast" if codec == "hevc" else "12")
    target, _ = run(source, options=options)
    info = probe(target)
    assert info.pixel_format == "yuv420p10le"
    assert (info.colour.matrix_code, info.colour.primaries, info.colour.transfer) == (9, 9, transfer)
    before = probe(source).mastering
    assert before.display is not None and info.mastering.display is not None
    assert [float(v) for v in info.mastering.display] == pytest.approx([float(v) for v in before.display], rel=1e-3)
    assert info.mastering.light == before.light == (900, 180)


def test_deep_films_get_a_codec_that_keeps_their_depth(run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", count=3, pixel_format="yuv420p10le")
    target, _ = run(source)
    assert probe(target).codec == "hevc"
    assert probe(target).pixel_format == "yuv420p10le"


def test_fields_are_noticed_and_made_frames(run: Run, tmp_path: Path, events: Events) -> None:
    source = write_clip(tmp_path / "a.mp4", options={"x264-params": "interlaced=1:tff=1"})
    assert probe(source).is_interlaced
    target, result = run(source)
    assert [event["code"] for event in events.of("warning")] == ["interlaced"]
    assert result.frames == 12
    assert not probe(target).is_interlaced
    assert read_clip(target).times == read_clip(source).times
    _, result = run(source, "off.mp4", deinterlace="off")
    assert result.frames == 12
    doubled, result = run(source, "double.mp4", deinterlace="yadif=1")
    assert result.frames == 24
    assert np.diff([float(t) for t in read_clip(doubled).times]) == pytest.approx([1 / 50] * 23, abs=1e-4)
    with pytest.raises(UsageError, match="no filter"):
        run(source, "bad.mp4", deinterlace="sharpen_nicely")


# --- what is refused, and damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"encoder_options": (("foo", "1"),)}, UsageError, "does not know the option foo"),
        ({"preset": "quick"}, UsageError, "libx264 refuses"),
        ({"crf": 60}, UsageError, "goes from 0 to 51"),
        ({"codec": "av1"}, UnsupportedInput, "at least 64 pixels"),
        ({"codec": "prores"}, UsageError, "cannot hold prores"),
        ({"pixel_format": "yuv999"}, UsageError, "no pixel format"),
        ({"pixel_format": "gbrp16le"}, UsageError, "does not take"),
        ({"encoder": "h265_magic"}, UsageError, "not in this build"),
        ({"encoder": "aac"}, UsageError, "does not encode video"),
        ({"start": Fraction(99)}, UsageError, "beyond the end"),
    ],
)
def test_impossible_wishes_are_refused_before_any_work(
    run: Run, tmp_path: Path, options: dict[str, Any], error: type[RealesrError], words: str
) -> None:
    source = write_clip(tmp_path / "a.mp4", count=3)
    with pytest.raises(error, match=words):
        run(source, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_sizes_beyond_the_encoder_are_refused_before_any_work(run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", count=3)
    with pytest.raises(UnsupportedInput, match="at most 16384"):
        run(source, size=SizeOptions(width=16390))


def test_hardware_that_is_not_there_gives_way_to_software(run: Run, tmp_path: Path, events: Events) -> None:
    source = write_clip(tmp_path / "a.mp4", count=3)
    run(source, encoder="h264_videotoolbox", hwaccel="videotoolbox")
    assert [event["code"] for event in events.of("warning")] == ["encoder", "hwaccel"]


def test_a_result_that_is_there_is_not_replaced_unasked(run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", count=3)
    (tmp_path / "result.mp4").write_text("precious")
    with pytest.raises(OutputExists):
        run(source)
    with pytest.raises(UsageError, match="replace the input"):
        run(source, "a.mp4", overwrite=True)
    run(source, overwrite=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("audio_only.mp4", "no video stream"),
        ("zero_byte.mp4", "is empty"),
        ("truncated_no_moov.mp4", "its index is missing"),
        ("resolution_change.ts", "changes its size from 320x180 to 480x270 after 0.917 s"),
    ],
)
def test_bad_films_are_one_line(run: Run, media: Any, tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises((UnreadableInput, UnsupportedInput), match=words):
        run(media(f"clips/{name}"), start=Fraction(4, 5) if "change" in name else None)
    assert not (tmp_path / "result.mp4").exists()


def test_a_film_that_was_cut_off_is_told_apart(run: Run, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", count=60, options={"movflags": "faststart", "g": "10"}, size=(96, 96))
    with (
        av.open(str(whole)) as source,
        av.open(str(tmp_path / "fast.mp4"), "w", container_options={"movflags": "faststart"}) as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    data = (tmp_path / "fast.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    _, result = run(tmp_path / "cut.mp4")
    assert len(result.differences) == 1
    assert "cut off" in result.differences[0]


def test_damaged_packets_repeat_the_last_good_frame(run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", count=30, options={"g": "1"}, tick=Fraction(1, 1000))
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    for number in (10, 11, 20):
        place, size = places[number]
        assert place is not None
        data[place + 20 : place + size] = bytes(size - 20)
    (tmp_path / "bad.mkv").write_bytes(data)
    target, result = run(tmp_path / "bad.mkv")
    assert result.frames == 30
    assert result.differences == ("3 packets of the source are damaged; 3 frames are shown twice for them",)
    frames = read_clip(target).frames
    assert np.abs(frames[10].astype(int) - frames[9]).mean() < 1.5
    assert read_clip(target).times == read_clip(source).times


def test_a_second_picture_stream_is_copied_as_it_is(run: Run, tmp_path: Path, events: Events) -> None:
    large, small = write_clip(tmp_path / "large.mp4"), write_clip(tmp_path / "small.mp4", size=(32, 32))
    with (
        av.open(str(large)) as first,
        av.open(str(small)) as second,
        av.open(str(tmp_path / "two.mkv"), "w") as container,
    ):
        for source in (first, second):
            container.add_stream_from_template(source.streams.video[0], opaque=True)
        for source, stream in zip((first, second), container.streams, strict=True):
            for packet in source.demux(source.streams.video[0]):
                if packet.size:
                    packet.stream = stream
                    container.mux(packet)
    target, result = run(tmp_path / "two.mkv", size=SizeOptions(scale=2))
    assert result.differences == ()
    assert "video stream 1 (h264) is copied as it is" in events.of("warning")[0]["message"]
    with av.open(str(target)) as container:
        assert [stream.width for stream in container.streams.video] == [128, 32]


def test_a_change_of_the_pixel_format_is_refused(run: Run, tmp_path: Path) -> None:
    parts = [write_clip(tmp_path / f"{form}.h264", pixel_format=form, count=6) for form in ("yuv420p", "yuv444p")]
    (tmp_path / "both.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(UnsupportedInput, match=r"from yuv420p to yuv444p after 0\.\d+ s"):
        run(tmp_path / "both.h264", "result.mp4", segment_frames=100)


def test_a_still_film_costs_the_network_one_frame(run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", count=30, still=True, encoder="ffv1", tick=Fraction(1, 1000))
    _, result = run(source)
    assert result.spared == pytest.approx(29 / 30)


def test_the_networks_own_scale_is_the_default(run: Run, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", count=3)
    target, result = run(source, size=SizeOptions())
    assert (result.height, result.width) == (192, 256)
    assert read_clip(target).frames[0].shape == (192, 256, 3)
    target, _ = run(source, "more.mp4", size=SizeOptions(scale=6))
    assert read_clip(target).frames[0].shape == (288, 384, 3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_still_film_of_a_thousand_frames_is_twenty_times_as_fast_as_a_moving_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = SRVGGNetCompact(channels=3, width=64, depth=16, scale=4)
    model = loaded(network, pad_px=18, radius_px=18, values_per_px=200)
    seconds = {}
    with Upscaler(model, device=DeviceOptions(device="cpu", precision="fp32")) as heavy:
        # fewer of the moving frames: each costs the same
        for name, count in (("moving", 50), ("still", 1000)):
            source = write_clip(
                tmp_path / f"{name}.mkv", count=count, size=(96, 128), still=name == "still", encoder="ffv1",
                tick=Fraction(1, 1000), noise=name == "moving",
            )  # fmt: skip
            started = time.monotonic()
            upscale_video(source, tmp_path / f"{name}_x4.mkv", heavy, options=VideoOptions(preset="ultrafast"))
            seconds[name] = (time.monotonic() - started) / count
    assert seconds["moving"] / seconds["still"] > 20


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_longer_film_takes_no_more_memory(tmp_path: Path) -> None:
    weights = tmp_path / "net.safetensors"
    save_file({key: value.contiguous() for key, value in compact().network.state_dict().items()}, weights)
    code = (
        "import resource, sys; from realesr_cli import *\n"
        "upscaler = Upscaler(sys.argv[3], device=DeviceOptions(device='cpu', threads=1))\n"
        "upscale_video(sys.argv[1], sys.argv[2], upscaler, options=VideoOptions(preset='ultrafast'))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    resident_mib = []
    for count in (250, 1500):
        source = write_clip(tmp_path / f"{count}.mkv", count=count, size=(72, 96), tick=Fraction(1, 1000))
        command = [sys.executable, "-c", code, str(source), str(tmp_path / f"{count}_x4.mkv"), str(weights)]
        resident_mib.append(float(subprocess.run(command, capture_output=True, check=True).stdout))
    assert resident_mib[1] < resident_mib[0] * 1.06 + 5
