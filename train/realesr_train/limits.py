"""Limits of single values in a training configuration. Light."""

from typing import Any

from realesr_cli.errors import ConfigError

INFINITE = float("inf")


def check_scale(scale: int) -> int:
    """The scale itself. Raises: ConfigError unless it is from 1 to 8."""
    if not 1 <= scale <= 8:
        raise ConfigError(f"scale = {scale} must be from 1 to 8")
    return scale


def check_seed(seed: int) -> int:
    """The seed itself. Raises: ConfigError unless it is from 0 to 2^63 - 1."""
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed = {seed} must be from 0 to 2^63 - 1")
    return seed


def check_limits(record: Any, **limits: tuple[float, float]) -> None:
    """Fields by name, each with the least and greatest value it may have. Raises: ConfigError."""
    for name, (low, high) in limits.items():
        value = getattr(record, name)
        if not low <= value <= high:
            span = f"at least {low:g}" if high == INFINITE else f"from {low:g} to {high:g}"
            raise ConfigError(f"{name} = {value:g} must be {span}")
