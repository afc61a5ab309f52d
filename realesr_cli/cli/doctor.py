"""`realesr doctor`: what a bug report needs, and whether this machine is ready."""

import platform
import sys
from importlib import metadata

from realesr_cli import __version__, catalog, weights
from realesr_cli.cli import flags
from realesr_cli.cli.run import running

_PACKAGES = ("torch", "numpy", "opencv-python", "av", "typer", "safetensors", "requests", "spandrel")


def doctor(json: flags.Json = False) -> None:
    """Show versions, devices, measured precisions, memory and the cache."""
    with running("doctor", json=json) as run:
        import torch

        from realesr_cli.device import available_devices, bf16_gain, find_device, free_memory_bytes

        best = find_device("auto")
        gain = bf16_gain()
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
            "bf16 on the cpu": f"{gain:.1f} times the speed of fp32",
            "cache": str(folder),
            "models in it": ", ".join(e.name for e in catalog.list_models() if weights.is_cached(e.name)) or "none",
        }
        run.reporter.emit("doctor", facts=facts, text="\n".join(f"{key:16} {value}" for key, value in facts.items()))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
