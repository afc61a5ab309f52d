"""Peak memory of enlarging one large picture from file to file, above the loaded model.

    python scripts/bench_memory.py PICTURE -m MODEL... [--side 2560 5120] [--suffix .png .tif .jpg] [--json]

PICTURE is resized to squares of `--side` pixels, saved as JPEG, and enlarged by a fresh process, which first loads the
model and enlarges a few pixels with it. Printed is by how much its resident memory then grows at its highest, beside
what `--dry-run` says. Linux only (/proc).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from realesr_cli import DeviceOptions, Upscaler, read_image
from realesr_cli.image_jobs import PictureOptions, describe_jobs, run_jobs
from realesr_cli.naming import plan_jobs
from realesr_cli.options import InputOptions, OutputOptions, SizeOptions
from realesr_cli.process import restart_with_settings


class Plans:
    """Catches what `--dry-run` would print."""

    memory_bytes = 0

    def emit(self, event: str, **fields: Any) -> None:
        if event == "plan":
            self.memory_bytes = fields["memory_bytes"]


def resident_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def enlarge(model: str, source: Path, target: Path, threads: int | None) -> dict[str, Any]:
    """One run in this process. Raises whatever goes wrong."""
    plans = Plans()
    size, output = SizeOptions(), OutputOptions(overwrite=True)

    def fail(job: Any, error: Exception) -> None:
        raise error

    with Upscaler(model, device=DeviceOptions(device="cpu", threads=threads)) as upscaler:
        jobs = plan_jobs([source], target, size, upscaler.model.scale, output)
        options = PictureOptions(size=size, output=output, accept=InputOptions())
        upscaler(np.zeros((64, 64, 3), np.uint8))
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        before = resident_mib("VmRSS")
        started = time.perf_counter()
        run_jobs(jobs, [upscaler], options, reporter=plans, fail=fail, done=lambda job: None)
        seconds = time.perf_counter() - started
        added = resident_mib("VmHWM") - before
        describe_jobs(jobs, upscaler, options, reporter=plans, fail=fail)
        scale = upscaler.model.scale
    return {"seconds": seconds, "added_mib": added, "planned_mib": plans.memory_bytes / 2**20, "scale": scale}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("-m", "--model", nargs="+", required=True)
    parser.add_argument("--side", nargs="+", type=int, default=[2560])
    parser.add_argument("--suffix", nargs="+", default=[".png"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.target:
        print(json.dumps(enlarge(arguments.model[0], arguments.picture, arguments.target, arguments.threads)))
        return
    photo = read_image(arguments.picture).pixels[..., 2::-1]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for side in arguments.side:
            source = Path(folder) / f"{side}.jpg"
            cv2.imwrite(str(source), cv2.resize(photo, (side, side), interpolation=cv2.INTER_CUBIC))
            for model in arguments.model:
                for suffix in arguments.suffix:
                    target = Path(folder) / f"out{suffix}"
                    command = [sys.executable, __file__, str(source), "-m", model, "--target", str(target)]
                    command += ["--threads", str(arguments.threads)] if arguments.threads else []
                    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                    row = {"model": Path(model).stem, "side": side, "suffix": suffix, **json.loads(out)}
                    row["megapixels"] = (side * row.pop("scale")) ** 2 / 1e6
                    rows.append(row)
                    if not arguments.json:
                        print(
                            f"{row['model']:24} {row['megapixels']:6.0f} MP {suffix:5} {row['seconds']:7.1f} s  "
                            f"+{row['added_mib']:6.0f} MiB ({row['added_mib'] / row['megapixels']:5.1f} per MP), "
                            f"planned {row['planned_mib']:6.0f}",
                            flush=True,
                        )
    if arguments.json:
        print(json.dumps({"machine": {"threads": arguments.threads}, "rows": rows}))


if __name__ == "__main__":
    restart_with_settings()  # as the program does
    main()
