"""What goes wrong in a training and shows in its log: pure functions over the history.

Each looks at the end of the log only and stays silent while there is too little of it. Thresholds were chosen so that
a healthy run never meets them; their sources stand beside them. The discriminator's alarms are about logistic losses
("vanilla"): with the others d_real and d_fake have other scales, and the log of such a run needs an eye.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import NamedTuple

from realesr_train.run_log import Series

_WINDOW = 20  # rows of the log that a verdict on the discriminator needs
_DRIFT_LEVELS = 2.0  # official networks stay below 1 as a mean over pictures; 2 can be seen side by side
_DRIFT_VALIDATIONS = 3
_OVERFIT_VALIDATIONS = 4
_OVERFIT_DB = 0.1  # below this a fall is noise
_WON_LOSS = 0.1  # d_real + d_fake; about 1 in a balanced game
_WON_GAP = 6.0  # logits: both judged right with a confidence of 95 %
_EQUAL_GAP = 0.02
_LN2_TOLERANCE = 0.01
_FLAT_GRADIENT = 0.01


BASELINE = "bicubic"
"""The data set under which the scores of bicubic interpolation are logged."""


class Alarm(NamedTuple):
    """Fields of a `warning` event."""

    code: str
    """colour_drift, discriminator_won, discriminator_collapsed or overfitting."""
    message: str
    hint: str


def alarms(history: Mapping[str, Series], *, dataset: str = "validation", pixel_loss: str = "pixel") -> list[Alarm]:
    """All that is wrong at the end of the log; `dataset` is the one that was validated on.

    For `RunLog.warn`, which says each of them once.
    """
    found = (
        _colour_drift(history, dataset),
        _discriminator_won(history),
        _discriminator_collapsed(history),
        _overfitting(history, dataset, pixel_loss),
    )
    return [alarm for alarm in found if alarm is not None]


def _colour_drift(history: Mapping[str, Series], dataset: str) -> Alarm | None:
    """A channel's mean is off by more than `_DRIFT_LEVELS`, to one side, validation after validation.

    Off the true picture's and off that of the enlarged input, if the log has it: noise that is clipped at black and
    white shifts the input itself, and neither passing that on nor undoing it is drift.
    """
    worst = ("", 0.0)
    for channel in ("red", "green", "blue"):
        key = f"shift_{channel[0]}_levels"
        of_input = history.get(f"metric.{BASELINE}.{key}", Series([0], [0.0])).values[-1]
        shifts = _last(history, f"metric.{dataset}.{key}", _DRIFT_VALIDATIONS)
        low, high = min(0.0, of_input), max(0.0, of_input)
        drifts = [max(shift - high, 0.0) + min(shift - low, 0.0) for shift in shifts or ()]
        drifted = drifts and (min(drifts) > _DRIFT_LEVELS or max(drifts) < -_DRIFT_LEVELS)
        if drifted and abs(drifts[-1]) > abs(worst[1]):
            worst = (channel, drifts[-1])
    if not worst[0]:
        return None
    return Alarm(
        "colour_drift",
        f"{worst[0]} is {abs(worst[1]):.1f}/255 too {'high' if worst[1] > 0 else 'low'} on average, "
        f"in {_DRIFT_VALIDATIONS} validations in a row",
        "give the pixel loss more weight beside perceptual and adversarial ones; a teacher may drift itself",
    )


def _discriminator_won(history: Mapping[str, Series]) -> Alarm | None:
    """It is sure of both kinds of pictures, and the generator does not win ground back."""
    columns = _discriminator(history)
    adversarial = _last(history, "loss.adversarial", _WINDOW)
    if columns is None or adversarial is None:
        return None
    d_real, d_fake, gaps = columns
    half = _WINDOW // 2
    recovers = fmean(adversarial[half:]) < 0.98 * fmean(adversarial[:half])
    if median(d_real) + median(d_fake) > _WON_LOSS or median(gaps) < _WON_GAP or recovers:
        return None
    return Alarm(
        "discriminator_won",
        f"the discriminator tells all pictures apart (losses {median(d_real):.2g} and {median(d_fake):.2g}, logits "
        f"{median(gaps):.1f} apart), so that the generator learns nothing from it",
        "lower discriminator.lr, or start the adversarial stage from a generator that is trained longer",
    )


def _discriminator_collapsed(history: Mapping[str, Series]) -> Alarm | None:
    """It gives one answer to everything, and has no gradient to leave that."""
    columns = _discriminator(history)
    if columns is None:
        return None
    d_real, d_fake, gaps = columns
    gradients = _last(history, "loss.gradient_norm_d", _WINDOW)
    at_rest = gradients is None or max(gradients) < _FLAT_GRADIENT
    at_chance = all(abs(loss - math.log(2)) < _LN2_TOLERANCE for loss in (*d_real, *d_fake))
    if not at_rest or not at_chance or max(map(abs, gaps)) > _EQUAL_GAP:
        return None
    return Alarm(
        "discriminator_collapsed",
        f"the discriminator cannot tell pictures apart: both losses at ln 2, logits equal over {_WINDOW} rows",
        "check that its target is the true picture and its learning rate above 0; restart it from fresh weights",
    )


def _overfitting(history: Mapping[str, Series], dataset: str, pixel_loss: str) -> Alarm | None:
    """PSNR falls from validation to validation while the loss on the training pictures falls as well."""
    psnr = history.get(f"metric.{dataset}.psnr_y_db", Series())
    loss = history.get(f"loss.{pixel_loss}", Series())
    values, steps = psnr.values[-_OVERFIT_VALIDATIONS - 1 :], psnr.steps[-_OVERFIT_VALIDATIONS - 1 :]
    if len(values) <= _OVERFIT_VALIDATIONS or values[0] - values[-1] < _OVERFIT_DB:
        return None
    if any(later >= earlier for earlier, later in pairwise(values)):
        return None
    spans = list(pairwise(steps))
    first, last = (
        [value for step, value in zip(loss.steps, loss.values, strict=True) if start < step <= stop]
        for start, stop in (spans[0], spans[-1])
    )
    if not first or not last or fmean(last) > 0.99 * fmean(first):
        return None
    return Alarm(
        "overfitting",
        f"PSNR has fallen by {values[0] - values[-1]:.2f} dB in {_OVERFIT_VALIDATIONS} validations while the training "
        f"loss fell from {fmean(first):.3g} to {fmean(last):.3g}",
        f"the weights of step {steps[0]} were better; use more pictures, or stop here (a sharpened target lowers PSNR "
        "as well)",
    )


def _discriminator(history: Mapping[str, Series]) -> tuple[Sequence[float], Sequence[float], list[float]] | None:
    """Its two losses and real - fake logit over the window, if all are logged for so long and finite."""
    names = ("loss.d_real", "loss.d_fake", "loss.logit_real", "loss.logit_fake")
    columns = [_last(history, name, _WINDOW) for name in names]
    d_real, d_fake, real, fake = columns
    if d_real is None or d_fake is None or real is None or fake is None:
        return None
    return d_real, d_fake, [one - other for one, other in zip(real, fake, strict=True)]


def _last(history: Mapping[str, Series], name: str, count: int) -> list[float] | None:
    """The last `count` values, or None if there are fewer or one is not finite."""
    values = history.get(name, Series()).values[-count:]
    return values if len(values) == count and all(map(math.isfinite, values)) else None
