"""How much of a film need not go through the network, and what it costs to find out.

    python scripts/measure_reuse.py FILM... [--margin-px 18] [--frames 500] [--json]

No network runs: the result is the film itself, so that what is timed is comparing, choosing windows and pasting. The
margin is the `pad_px` of a network: 18 for animevideov3, 34 for general-x4v3, 96 for x4plus. "still" is the first frame
over and over.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av

from realesr_cli.video.frames import planes_of
from realesr_cli.video.reuse import FrameChanges, FrameResults, Planes


def measure(frames: Iterable[Planes], margin_px: int) -> dict[str, Any]:
    changes, results = FrameChanges(margin_px), FrameResults(scale=1)
    saved = total = identical = calls = 0
    seconds = []
    for planes in frames:
        started = time.perf_counter()
        change = changes(planes)
        results(change, [tuple(plane.copy() for plane in part) for part in change.parts()])
        seconds.append(time.perf_counter() - started)
        spared, calls = change.spared_px, calls + len(change.windows)
        size = planes[0].shape[0] * planes[0].shape[1]
        saved, total, identical = saved + spared, total + size, identical + (spared == size)
    return {
        "frames": len(seconds),
        "identical": identical,
        "calls": calls,
        "saved": saved / total,
        "ms_per_frame": statistics.median(seconds) * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("films", nargs="+", type=Path)
    parser.add_argument("--margin-px", type=int, default=18)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for film in arguments.films:
        with av.open(film) as source:
            decoded = itertools.islice(source.decode(video=0), arguments.frames)
            first = next(decoded)
            size = {"width": first.width, "height": first.height}
            moving = measure((planes_of(frame) for frame in itertools.chain([first], decoded)), arguments.margin_px)
        still = measure((planes_of(first) for _ in range(100)), arguments.margin_px)
        rows += [{"film": film.name, **size, **moving}, {"film": f"{film.name}, still", **size, **still}]
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            "{film:36} {width}x{height}  {frames:4} frames, {identical:4} identical  {saved:6.1%} saved  "
            "{calls:4} calls  {ms_per_frame:7.2f} ms a frame".format_map(row)
        )


if __name__ == "__main__":
    main()
