"""`realesr doctor`: what a bug report needs, and whether this machine is ready."""

import platform
import sys
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING

from realesr_cli import __version__, catalog, weights
from realesr_cli.cli import flags
from realesr_cli.cli.run import running

if TYPE_CHECKING:
    import torch

_PACKAGES = ("torch", "numpy", "opencv-python", "av", "typer", "safetensors", "requests", "spandrel")


def doctor(json: flags.Json = False) -> None:
    """Show versions, devices, measured precisions, memory and the cache."""
    with running("doctor", json=json) as run:
        import torch

        from realesr_cli.device import available_devices, find_device, free_memory_bytes, precision_gain

        best = find_device("auto")
        gains = {name: _gains(torch.device(name), precision_gain) for name in available_devices()}
        folder = weights.cache_folder()
        facts = {
            "realesr": __version__,
            "python": f"{platform.python_version()} ({sys.executable})",
            "system": platform.platform(),
            **{name: _version(name) for name in _PACKAGES},
            "devices": ", ".join(available_devices()),
            **{f"cuda:{index}": torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())},
            "auto device": f"{best}, {free_memory_bytes(best) / 2**30:.1f} GiB free",
            "cpu threads": str(torch.get_num_threads()),
            **{f"speed on {name}": text for name, text in gains.items()},
            "cache": str(folder),
            "models in it": ", ".join(e.name for e in catalog.list_models() if weights.is_cached(e.name)) or "none",
        }
        run.reporter.emit("doctor", facts=facts, text="\n".join(f"{key:16} {value}" for key, value in facts.items()))


def _gains(device: "torch.device", measure: "Callable[[torch.dtype, torch.device], float]") -> str:
    """Speeds of the low-precision formats against fp32, as far as the device knows them."""
    import torch

    found = []
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        try:
            found.append(f"{name} {measure(dtype, device):.1f}")
        except (RuntimeError, TypeError):
            found.append(f"{name} unknown here")
    return "fp32 1, " + ", ".join(found)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
