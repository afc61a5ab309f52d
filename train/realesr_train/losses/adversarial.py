"""Adversarial losses on raw logits: what the discriminator minimises and what the generator minimises.

Logits have any shape: one per picture, per patch or per pixel; every loss is their mean, in float32. The two losses of
the discriminator are separate, each with weight 1 (no 1/2), as Real-ESRGAN sums them.

Source: vanilla, Goodfellow et al. 2014 (non-saturating); lsgan, Mao et al. 2017; wgan, Arjovsky et al. 2017; hinge, Lim
and Ye 2017; relativistic average, Jolicoeur-Martineau 2018, in the form of ESRGAN. training_spec section 8,
family_spec section 4.
"""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Kind = Literal["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"]


def discriminator_loss(logits: Tensor, *, real: bool, kind: Kind = "vanilla", label: float | None = None) -> Tensor:
    """How far `logits` are from saying "real" (or "fake"): a scalar that the discriminator minimises.

    `label` smooths the target, e.g. 0.9 for real pictures; None means 1 for real and 0 for fake. Only vanilla and lsgan
    have a target value. Source: Salimans et al. 2016 (arXiv:1606.03498), section 3.4, for the smoothing.

    Raises: ValueError for a label with another kind.
    """
    if label is not None and kind not in ("vanilla", "lsgan"):
        raise ValueError(f"label {label} has no meaning for the {kind} loss; smooth labels only in vanilla or lsgan")
    logits = logits.float()
    sign = 1.0 if real else -1.0
    goal = (1.0 if real else 0.0) if label is None else label
    match kind:
        case "vanilla":
            # log(1 + e^x) - goal x is the binary cross entropy, stable for large |x|
            return (F.softplus(logits) - goal * logits).mean()
        case "lsgan":
            return (logits - goal).square().mean()
        case "wgan":
            return (-sign * logits).mean()
        case "wgan_softplus":
            return F.softplus(-sign * logits).mean()
        case "hinge":
            return F.relu(1 - sign * logits).mean()


def generator_loss(fake_logits: Tensor, *, kind: Kind = "vanilla") -> Tensor:
    """How far the discriminator is from taking the generator's pictures for real: the generator minimises it."""
    if kind == "hinge":  # no margin: the generator gains from every step towards "real"
        return -fake_logits.float().mean()
    return discriminator_loss(fake_logits, real=True, kind=kind)


def relativistic_discriminator_losses(
    real_logits: Tensor, fake_logits: Tensor, *, kind: Kind = "vanilla"
) -> tuple[Tensor, Tensor]:
    """Losses on (real, fake), each with weight 1/2: real ones should look more real than the average fake.

    No gradient flows through the averages. Source: family_spec section 4, as BasicSR and RealSR have it.
    """
    real = discriminator_loss(real_logits.float() - fake_logits.detach().float().mean(), real=True, kind=kind)
    fake = discriminator_loss(fake_logits.float() - real_logits.detach().float().mean(), real=False, kind=kind)
    return 0.5 * real, 0.5 * fake


def relativistic_generator_loss(real_logits: Tensor, fake_logits: Tensor, *, kind: Kind = "vanilla") -> Tensor:
    """Half the sum of both terms with their roles exchanged; gradients only through `fake_logits`, its mean included.

    Source: family_spec section 4.
    """
    real_logits, fake_logits = real_logits.detach().float(), fake_logits.float()
    real = discriminator_loss(real_logits - fake_logits.mean(), real=False, kind=kind)
    fake = discriminator_loss(fake_logits - real_logits.mean(), real=True, kind=kind)
    return 0.5 * (real + fake)
