"""What `realesr image` costs beside the network: starting, loading, decoding, encoding.

    python scripts/bench_start.py PICTURE [-m MODEL] [--side 512] [--rounds 5] [--json]

Fresh processes in turn: `import torch, cv2`, and `realesr image` of the picture's middle. The network's own time is
taken from the events `begin` and the last `progress` of the same process. Overhead = process - network - imports.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2

from realesr_cli import read_image


def timed(command: list[str]) -> tuple[float, str]:
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - started, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("-m", "--model", default="realesr-animevideov3")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--suffix", default=".png")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        pixels = read_image(arguments.picture).pixels[..., 2::-1]
        top, left = ((side - arguments.side) // 2 for side in pixels.shape[:2])
        source, target = Path(folder) / "in.png", Path(folder) / f"out{arguments.suffix}"
        cv2.imwrite(str(source), pixels[top : top + arguments.side, left : left + arguments.side])
        command = [sys.executable, "-m", "realesr_cli", "image", str(source), "-o", str(target), "-m", arguments.model]
        for _ in range(arguments.rounds + 1):
            imports_s, _ = timed([sys.executable, "-c", "import torch, cv2"])
            process_s, out = timed([*command, "--json", "--overwrite"])
            events = [json.loads(line) for line in out.splitlines()]
            begin = next(event["t_s"] for event in events if event["event"] == "begin")
            end = next(event["t_s"] for event in events if event["event"] == "progress" and event["finished"])
            row = {"imports_s": imports_s, "process_s": process_s, "network_s": end - begin}
            rows.append(row | {"overhead_s": process_s - imports_s - row["network_s"]})
    medians = {name: statistics.median(row[name] for row in rows[1:]) for name in rows[0]}
    if arguments.json:
        print(json.dumps({"side": arguments.side, "model": arguments.model, **medians}))
    else:
        print("  ".join(f"{name} {value:.2f}" for name, value in medians.items()))


if __name__ == "__main__":
    main()
