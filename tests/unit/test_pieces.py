"""Pieces of a film that are made by themselves, in any order: joined they are the film made in one go."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from clips import read_clip, write_clip
from networks import compact
from realesr_cli import DeviceOptions, SizeOptions, Upscaler, VideoOptions, upscale_video
from realesr_cli.errors import UnreadableInput
from realesr_cli.video.film import Film
from realesr_cli.video.pieces import MadePiece, Piece, make_piece
from realesr_cli.video.resume import work_folder
from recording import Events

SAME_SIZE = SizeOptions(scale=1)


@pytest.fixture(scope="module")
def upscaler() -> Iterator[Upscaler]:
    threads = torch.get_num_threads()
    with Upscaler(compact(depth=1), device=DeviceOptions(device="cpu", precision="fp32", threads=1)) as made:
        yield made
    torch.set_num_threads(threads)


def _backwards(upscaler: Upscaler, options: VideoOptions, seen: list[Piece]) -> Callable[..., None]:
    """Makes the last piece first."""

    def farm(film: Film, pieces: Iterator[Piece], done: Callable[[Piece, MadePiece], None]) -> None:
        seen.extend(pieces)
        for piece in reversed(seen):
            done(piece, make_piece(film, piece, upscaler, options))

    return farm


def _same(first: Path, second: Path) -> None:
    one, two = read_clip(first), read_clip(second)
    assert one.times == two.times and one.streams == two.streams
    assert all(np.array_equal(a, b) for a, b in zip(one.frames, two.frames, strict=True))


@pytest.mark.parametrize("case", ["variable rate", "fields at another rate", "damaged"])
def test_pieces_made_backwards_join_to_the_same_film(upscaler: Upscaler, tmp_path: Path, case: str) -> None:
    options = VideoOptions(preset="ultrafast", segment_frames=15)
    source = tmp_path / "film.mkv"
    times = [40 * i + (i % 3) * 7 for i in range(70)]
    if case == "fields at another rate":
        write_clip(source, count=70, options={"x264-params": "interlaced=1:tff=1:keyint=10"})
        options = VideoOptions(preset="ultrafast", segment_frames=15, fps=Fraction(20), deinterlace="yadif")
    else:
        write_clip(source, times=times, tick=Fraction(1, 1000), options={"g": "10", "bf": "2"}, audio_at=[Fraction(0)])
    if case == "damaged":
        with av.open(str(source)) as container:
            place, size = [(p.pos, p.size) for p in container.demux(video=0) if p.size][33]
        data = bytearray(source.read_bytes())
        data[place + 20 : place + size] = bytes(size - 20)
        source.write_bytes(data)
    whole = upscale_video(source, tmp_path / "whole.mkv", upscaler, size=SAME_SIZE, options=options)
    seen: list[Piece] = []
    farm = _backwards(upscaler, options, seen)
    made = upscale_video(source, tmp_path / "made.mkv", upscaler, size=SAME_SIZE, options=options, farm=farm)
    assert made.frames == whole.frames and made.differences == whole.differences
    _same(tmp_path / "whole.mkv", tmp_path / "made.mkv")
    assert [len(piece.times) for piece in seen[:-1]] == [15] * (len(seen) - 1) and len(seen) > 3
    assert seen[0].can_seek and seen[-1].can_seek is (case != "damaged")


def test_a_run_in_pieces_goes_on_in_one_process_and_the_other_way_round(upscaler: Upscaler, tmp_path: Path) -> None:
    options = VideoOptions(preset="ultrafast", segment_frames=10)
    source = write_clip(tmp_path / "film.mp4", count=45, options={"g": "5"})
    upscale_video(source, tmp_path / "whole.mp4", upscaler, size=SAME_SIZE, options=options)
    target = tmp_path / "made.mp4"

    def stopping(after: int) -> Callable[..., None]:
        def farm(film: Film, pieces: Iterator[Piece], done: Callable[[Piece, MadePiece], None]) -> None:
            for number, piece in enumerate(pieces):
                if number == after:
                    raise KeyboardInterrupt
                done(piece, make_piece(film, piece, upscaler, options))

        return farm

    for after, finished in ((1, 1), (2, 3)):
        with pytest.raises(KeyboardInterrupt):
            upscale_video(source, target, upscaler, size=SAME_SIZE, options=options, farm=stopping(after))
        assert len(list(work_folder(target).glob("segment-*.mp4"))) == finished
    events = Events()
    upscale_video(source, target, upscaler, size=SAME_SIZE, options=options, reporter=events)
    assert events.of("resumed")[0]["frames"] == 30
    _same(tmp_path / "whole.mp4", target)


def test_a_piece_whose_frames_are_not_there_is_refused(upscaler: Upscaler, tmp_path: Path) -> None:
    options = VideoOptions(preset="ultrafast", segment_frames=10)
    source = write_clip(tmp_path / "film.mp4", count=30)

    def farm(film: Film, pieces: Iterator[Piece], done: Callable[[Piece, MadePiece], None]) -> None:
        first = next(pieces)
        other = Piece(number=0, path=first.path, after=None, times=(*first.times[:-1], 7), can_seek=True)
        make_piece(film, other, upscaler, options)

    with pytest.raises(UnreadableInput, match="gives other frames each time it is read"):
        upscale_video(source, tmp_path / "made.mp4", upscaler, size=SAME_SIZE, options=options, farm=farm)
    assert not list(work_folder(tmp_path / "made.mp4").glob("*segment-*"))
