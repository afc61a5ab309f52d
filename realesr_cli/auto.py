"""`-m auto`: the best model for this device among those that can be had now."""

from realesr_cli import catalog, weights
from realesr_cli.errors import ModelError
from realesr_cli.reporting import Reporter

_FOR_GPU = "realesrgan-x4plus"
_FOR_CPU = "realesr-general-x4v3"
# Where the preferred model is out of reach; both also come with a Python package, through the user's package index.
_FALLBACKS = ("realesrgan-x4plus", "realesr-animevideov3")


def preferred_model(device_type: str) -> str:
    """x4plus needs thirty times the work of general-x4v3: a pleasure on a GPU, minutes a photo on a CPU."""
    return _FOR_CPU if device_type == "cpu" else _FOR_GPU


def choose_model(device_type: str, *, offline: bool, reporter: Reporter) -> tuple[str, str]:
    """(name, reason) of the first model that is in the cache or can be fetched; it is in the cache afterwards.

    Raises: ModelError, the one of the last candidate, if none can be had.
    """
    preferred = preferred_model(device_type)
    wanted = f"preferred on {'a CPU' if device_type == 'cpu' else 'a GPU'}"
    failure: ModelError | None = None
    for name in dict.fromkeys((preferred, *_FALLBACKS)):
        entry = catalog.find(name)
        reason = wanted if name == preferred else f"{preferred} cannot be fetched here"
        if weights.is_cached(name):
            return name, reason
        # one unreachable server may cost seconds: not again and again for the same wish
        if name == preferred and not entry.wheel and weights.unreachable_recently(entry):
            continue
        try:
            weights.resolve(name, offline=offline, reporter=reporter)
        except ModelError as error:
            failure = error
        else:
            return name, reason
    if failure is None:
        raise AssertionError("there is always a fallback")
    raise failure
