"""`realesr doctor`: what `realesr --version` says, and what torch finds and measures here."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from realesr_cli import __version__, machine
from realesr_cli.cli import flags
from realesr_cli.cli.run import running

if TYPE_CHECKING:
    import torch


def doctor(json: flags.Json = False) -> None:
    """Show versions, devices, measured precisions, memory and the cache."""
    with running("doctor", json=json) as run:
        import torch

        from realesr_cli.device import available_devices, find_device, precision_gain
        from realesr_cli.memory import free_memory_bytes

        best = find_device("auto")
        gains = {name: _gains(torch.device(name), precision_gain) for name in available_devices()}
        facts = {
            "realesr": __version__,
            **machine.facts(),
            "devices": ", ".join(available_devices()),
            **{f"cuda:{index}": torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())},
            "auto device": f"{best}, {free_memory_bytes(best) / 2**30:.1f} GiB free",
            "cpu threads": str(torch.get_num_threads()),
            **{f"speed on {name}": text for name, text in gains.items()},
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
