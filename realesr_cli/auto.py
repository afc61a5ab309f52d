"""`-m auto`: the best model for this device among those at hand. Nothing is fetched: the first run works offline."""

from realesr_cli import weights

EMBEDDED = "realesr-lite-x4"
"""Comes with realesr, so it is always at hand."""

_GENERAL = "realesr-general-x4v3"
_FOR_GPU = ("realesrgan-x4plus", _GENERAL)
# x4plus needs fifteen times the work of general-x4v3: a pleasure on a GPU, minutes a photo on a CPU, days a film
_FOR_CPU = (_GENERAL,)


def choose_model(device_type: str, *, for_films: bool = False) -> tuple[str, str]:
    """(name, reason) of the best model for pictures, or for films, that is in the cache or comes with realesr."""
    wanted: tuple[str, ...] = _FOR_CPU
    what = "a film" if for_films else "a CPU"
    if device_type != "cpu" and not for_films:
        wanted, what = _FOR_GPU, "a GPU"
    name = next((name for name in wanted if weights.is_cached(name)), EMBEDDED)
    reason = f"the best at hand for {what}"
    if name != wanted[0]:
        reason += f"; {wanted[0]} cleans damaged pictures better: `realesr models download {wanted[0]}`"
    return name, reason
