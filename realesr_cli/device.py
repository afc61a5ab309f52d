"""Where a network runs, and in which number format."""

import time
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from realesr_cli.errors import DeviceUnavailable
from realesr_cli.memory import is_out_of_memory
from realesr_cli.models.architectures import LoadedModel
from realesr_cli.models.mixed import fast_copy
from realesr_cli.options import DeviceOptions

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_CPU = torch.device("cpu")

# Half precision is taken where one convolution runs this much faster in it than in float32; emulated it is slower.
_WORTHWHILE = 1.3
# Largest difference to float32 of the probe's output, in [0, 1], that rounding alone explains.
_PROBE_TOLERANCE = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceChoice:
    """A decision and its reason, which `--verbose` and `doctor` show."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    reason: str
    explicit_precision: bool
    """True where the user named the precision; then 16-bit pictures use it too."""

    @property
    def precision(self) -> str:
        return _NAMES[self.dtype]


def choose_device(options: DeviceOptions, model: LoadedModel) -> DeviceChoice:
    """Device and precision for `model`.

    Precision "auto" is fp16 on CUDA and bf16 on a CPU that computes it natively, each only if
    the network's own output on a small probe picture stays finite and near the float32 result; else fp32.

    Raises: DeviceUnavailable.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = find_device(options.device)
    dtype, reason = _find_dtype(options, model, device)
    return DeviceChoice(
        device=device,
        dtype=dtype,
        # MPS convolutions gain nothing from it, and some of its kernels refuse it
        channels_last=device.type != "mps",
        reason=reason,
        explicit_precision=options.precision != "auto",
    )


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" is the fastest one. Raises: DeviceUnavailable."""
    available = available_devices()
    if name == "auto":
        return torch.device(available[0])
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in available:
        raise DeviceUnavailable(
            f"--device {name} is not available here", hint=f"choose one of: auto, {', '.join(available)}"
        )
    return torch.device(wanted)


def available_devices() -> tuple[str, ...]:
    """Names that `--device` accepts here, the one that "auto" takes first."""
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        names.append("mps")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        names.append("xpu")
    return (*names, "cpu")


def _find_dtype(options: DeviceOptions, model: LoadedModel, device: torch.device) -> tuple[torch.dtype, str]:
    if options.precision != "auto":
        dtype = _DTYPES[options.precision]
        if dtype != torch.float32 and not model.supports_low_precision:
            raise DeviceUnavailable(f"{model.architecture} runs in fp32 only", hint="leave --precision at auto")
        return dtype, "as asked"
    if not model.supports_low_precision:
        return torch.float32, f"{model.architecture} runs in fp32 only"
    if device.type == "cuda":
        candidate, why = torch.float16, "fp16 is fastest on CUDA"
    elif device.type == "cpu" and precision_gain(torch.bfloat16) >= _WORTHWHILE:
        candidate, why = torch.bfloat16, "this CPU computes bf16 natively"
    else:
        return torch.float32, "fp32 is the fastest safe format on this device"
    if not _agrees_with_float32(model, device, candidate):
        return torch.float32, f"{_NAMES[candidate]} gave wrong values with this network on this device"
    return candidate, why


def precision_gain(dtype: torch.dtype, device: torch.device = _CPU) -> float:
    """How many times faster one typical convolution runs in `dtype` than in float32; takes a few milliseconds."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(1, 64, 64, 64, generator=generator).to(device, memory_format=torch.channels_last)
    kernel = torch.randn(64, 64, 3, 3, generator=generator).to(device, memory_format=torch.channels_last)
    inputs = {kind: (picture.to(kind), kernel.to(kind)) for kind in (torch.float32, dtype)}
    best = dict.fromkeys(inputs, float("inf"))
    threads = torch.get_num_threads()
    # with one thread a busy neighbour delays a run now and then, with more every one; the best of several counts
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(8):
                for kind, (x, weight) in inputs.items():
                    started = time.perf_counter()
                    F.conv2d(x, weight, padding=1)
                    if device.type == "cuda":
                        torch.cuda.synchronize(device)
                    best[kind] = min(best[kind], time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return best[torch.float32] / best[dtype]


def _agrees_with_float32(model: LoadedModel, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the network's output on a small picture is finite in `dtype`, and close to the float32 one."""
    side = model.side_px or 16 * model.multiple_of
    generator = torch.Generator().manual_seed(0)
    probe = torch.rand(1, model.channels_in, side, side, generator=generator).to(device)
    try:
        with torch.inference_mode():
            exact = fast_copy(model.network, torch.float32, device, channels_last=True)(probe)
            low = fast_copy(model.network, dtype, device, channels_last=True)(probe)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return True  # nothing was shown; the engine knows what to do about memory
        raise
    difference = (low.float() - exact).clamp(-1e3, 1e3).square().mean().sqrt()
    return bool(torch.isfinite(low).all()) and float(difference) < _PROBE_TOLERANCE * max(1.0, float(exact.std()))
