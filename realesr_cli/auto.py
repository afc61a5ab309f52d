"""`-m auto`: the best model for this device among those that can be had now."""

from realesr_cli import catalog, weights
from realesr_cli.errors import ModelError, OutputError, RealesrError
from realesr_cli.reporting import Reporter

_FOR_GPU = "realesrgan-x4plus"
_FOR_CPU = "realesr-general-x4v3"
# Where the preferred model is out of reach; both also come with a Python package, through the user's package index.
_FALLBACKS = ("realesrgan-x4plus", "realesr-animevideov3")
# A film has thousands of frames: fast networks on every device.
_FOR_FILMS = "realesr-general-x4v3"


def preferred_model(device_type: str) -> str:
    """x4plus needs fifteen times the work of general-x4v3: a pleasure on a GPU, minutes a photo on a CPU."""
    return _FOR_CPU if device_type == "cpu" else _FOR_GPU


def likely_model(device_type: str, *, offline: bool, for_films: bool = False) -> str:
    """What `choose_model` will take if the preferred model can be fetched, or is not allowed to be. Fetches nothing."""
    preferred = _FOR_FILMS if for_films else preferred_model(device_type)
    at_hand = next((name for name in (preferred, *_fallbacks(for_films)) if weights.is_cached(name)), preferred)
    unreachable = offline or weights.unreachable_recently(catalog.find(preferred))
    return at_hand if unreachable else preferred


def choose_model(device_type: str, *, offline: bool, reporter: Reporter, for_films: bool = False) -> tuple[str, str]:
    """(name, reason) of the first model that is in the cache or can be fetched; it is in the cache afterwards.

    Raises: ModelError or OutputError, the one of the preferred model, if none can be had.
    """
    preferred = _FOR_FILMS if for_films else preferred_model(device_type)
    fallbacks = _fallbacks(for_films)
    wanted = "preferred for films" if for_films else f"preferred on {'a CPU' if device_type == 'cpu' else 'a GPU'}"
    failure: RealesrError | None = None
    for name in dict.fromkeys((preferred, *fallbacks)):
        entry = catalog.find(name)
        reason = wanted if name == preferred else f"{preferred} cannot be fetched here"
        if weights.is_cached(name):
            return name, reason
        # an unreachable server may cost seconds: not again and again while there is something else to take
        if name == preferred and weights.unreachable_recently(entry) and any(map(weights.is_cached, fallbacks)):
            continue
        try:
            weights.resolve(name, offline=offline, reporter=reporter)
        except (ModelError, OutputError) as error:  # OutputError: the cache is read-only or full
            failure = failure or error
        else:
            return name, reason
    if failure is None:
        raise AssertionError("there is always a fallback")
    raise failure


def _fallbacks(for_films: bool) -> tuple[str, ...]:
    return _FALLBACKS[::-1] if for_films else _FALLBACKS
