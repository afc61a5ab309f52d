"""Memory and speed of `realesr directory` over pictures of ever other sizes, with its settings and without.

    python scripts/bench_folder.py PICTURE [-m MODEL] [--count 200] [--sides 200 1200] [--rounds 1] [--json]

Writes `--count` pieces of PICTURE into a folder, each side drawn log-uniformly from `--sides`, and enlarges the folder
by the command itself, as it is and "plain": with the settings of glibc (`GLIBC_TUNABLES`) and oneDNN
(`ONEDNN_PRIMITIVE_CACHE_CAPACITY`) that every process has. The two take turns in being first. Printed are the pictures
a second and the process's resident memory, its greatest within each quarter of the time. Linux only (/proc).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from realesr_cli import read_image

_PLAIN = {
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=7",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024",
}
_EVERY_S = 0.1


def write_pieces(picture: Path, folder: Path, count: int, sides: tuple[int, int]) -> None:
    photo = read_image(picture).pixels[..., 2::-1]
    rng = np.random.default_rng(0)
    for number in range(count):
        height, width = np.exp(rng.uniform(*np.log(sides), 2)).astype(int)
        repeats = (-(-height // photo.shape[0]), -(-width // photo.shape[1]), 1)
        cv2.imwrite(str(folder / f"{number:04}.jpg"), np.tile(photo, repeats)[:height, :width])


def run(folder: Path, output: Path, arguments: argparse.Namespace, plain: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "realesr_cli", "directory", str(folder), "-o", str(output), "-m", arguments.model]
    command += ["--device", "cpu", "--format", "jpg", "--threads", str(arguments.threads)]
    others = {name: value for name, value in os.environ.items() if name not in _PLAIN}
    resident, started = [], time.perf_counter()
    with subprocess.Popen(command, env=others | (_PLAIN if plain else {}), stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
            time.sleep(_EVERY_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    seconds = time.perf_counter() - started
    return {
        "settings": "plain" if plain else "realesr",
        "pictures_per_s": round(arguments.count / seconds, 3),
        "resident_mib": [round(max(part)) for part in np.array_split(resident, 4)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("-m", "--model", default="realesr-lite-x4")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--sides", type=int, nargs=2, default=(200, 1200), metavar=("LEAST", "MOST"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "in"
        folder.mkdir()
        write_pieces(arguments.picture, folder, arguments.count, tuple(arguments.sides))
        for number in range(2 * arguments.rounds):
            rows.append(run(folder, Path(scratch) / f"out{number}", arguments, plain=number % 4 in (1, 2)))
            if not arguments.json:
                row = rows[-1]
                print(
                    f"{row['settings']:8} {row['pictures_per_s']:7.2f} pictures/s  MiB {row['resident_mib']}",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps({"count": arguments.count, "sides": arguments.sides, "rows": rows}))


if __name__ == "__main__":
    main()
