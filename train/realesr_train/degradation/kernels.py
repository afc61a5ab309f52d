"""Blur kernels of all families, batched, from closed formulas; one masked formula, no loop over images.

Trap: computed and normalised in float64 and only then cast to float32; small sigmas and large exponents need it.
"""

import math

import torch
from torch import Tensor

from realesr_train.degradation.canvas import checked_per_image

_NEGLIGIBLE = 1e-20
"""Weights below are made 0: as subnormal numbers they make a CPU's convolution up to ten times as slow (measured)."""

FAMILIES: tuple[str, ...] = (
    "iso",
    "aniso",
    "generalized_iso",
    "generalized_aniso",
    "plateau_iso",
    "plateau_aniso",
    "sinc",
    "impulse",
)


def is_any(family: Tensor, *names: str) -> Tensor:
    """Which of the places in `FAMILIES` are those of these families; bool, of the shape of `family`."""
    found = torch.zeros_like(family, dtype=torch.bool)
    for name in names:
        found |= family == FAMILIES.index(name)
    return found


def blur_kernels(
    *,
    family: Tensor,
    size: Tensor,
    sigma_x: Tensor,
    sigma_y: Tensor,
    theta: Tensor,
    beta: Tensor,
    omega: Tensor,
    width: int = 21,
) -> Tensor:
    """(N, width, width) float32 kernels of sum 1, image i's zero outside its central size x size square.

    All parameters have shape (N,) and are on one device, which is the result's: `family` indexes `FAMILIES`, `size`
    odd pixels (both integers); sigmas in pixels, `theta` in radians (x towards y), `omega` cut-off in radians per
    pixel. What a family does not use may be anything: isotropic families use sigma_x alone, sinc only omega, impulse
    nothing.

    Raises:
        ValueError: `width` even, a parameter of another shape; on the host also a family, size, sigma, beta or omega
            out of range.

    Source: training specification, section 3; the sinc is the circular low-pass omega J1(omega r) / (2 pi r).
    """
    if width < 1 or width % 2 == 0:
        raise ValueError(f"width: {width} is not an odd number of pixels")
    if family.ndim != 1 or family.shape[0] == 0:
        raise ValueError(f"family: shape is {tuple(family.shape)}; give (N,) with N at least 1")
    numbers = {"sigma_x": sigma_x, "sigma_y": sigma_y, "theta": theta, "beta": beta, "omega": omega}
    for name, value in {"size": size, **numbers}.items():
        checked_per_image(name, value, family.shape[0])
    isotropic = is_any(family, "iso", "generalized_iso", "plateau_iso")
    generalized = is_any(family, "generalized_iso", "generalized_aniso")
    plateau = is_any(family, "plateau_iso", "plateau_aniso")
    sinc, impulse = is_any(family, "sinc"), is_any(family, "impulse")
    gaussian_like = ~(sinc | impulse)
    if family.device.type == "cpu":
        _check("family", family, (family >= 0) & (family < len(FAMILIES)))
        _check("size", size, (size >= 1) & (size <= width) & (size % 2 == 1))
        _check("sigma_x", sigma_x, (sigma_x > 0) | ~gaussian_like)
        _check("sigma_y", sigma_y, (sigma_y > 0) | ~gaussian_like | isotropic)
        _check("beta", beta, (beta > 0) | ~(generalized | plateau))
        _check("omega", omega, (omega > 0) | ~sinc)

    def used(value: Tensor, where: Tensor, otherwise: float) -> Tensor:
        return torch.where(where, value.double(), otherwise)[:, None, None]

    sx = used(sigma_x, gaussian_like, 1.0)
    sy = used(torch.where(isotropic, sigma_x, sigma_y), gaussian_like, 1.0)
    angle = used(theta, gaussian_like & ~isotropic, 0.0)
    exponent = used(beta, generalized | plateau, 1.0)
    cutoff = used(omega, sinc, 1.0)

    offset = torch.arange(width, device=family.device, dtype=torch.float64) - width // 2
    x, y = offset[None, None, :], offset[None, :, None]
    along = torch.cos(angle) * x + torch.sin(angle) * y
    across = torch.cos(angle) * y - torch.sin(angle) * x
    powered = ((along / sx) ** 2 + (across / sy) ** 2) ** exponent
    r = torch.sqrt(x**2 + y**2)
    centre = (r == 0).expand(1, width, width)
    low_pass = cutoff * torch.special.bessel_j1(cutoff * r) / (2 * math.pi * r.masked_fill(centre, 1.0))
    low_pass = torch.where(centre, cutoff**2 / (4 * math.pi), low_pass)

    weights = torch.exp(-powered / 2)
    weights = torch.where(plateau[:, None, None], 1 / (1 + powered), weights)
    weights = torch.where(sinc[:, None, None], low_pass, weights)
    reach = torch.where(impulse, 0, size // 2)[:, None, None]
    inside = (x.abs() <= reach) & (y.abs() <= reach)
    weights = torch.where(inside, weights, 0.0)
    weights = weights / weights.sum((1, 2), keepdim=True)
    return torch.where(weights.abs() < _NEGLIGIBLE, 0.0, weights).float()


def _check(name: str, value: Tensor, good: Tensor) -> None:
    if not bool(good.all()):
        bad = value[~good][0].item()
        raise ValueError(f"{name}: {bad} is out of range for its kernel")
