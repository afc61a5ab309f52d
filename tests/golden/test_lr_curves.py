"""Learning rates against the recorded curves of the original, and the closed form where the original is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from realesr_train.optim import learning_rate

_SCHEDULES = {"MultiStepLR": "multistep", "MultiStepRestartLR": "multistep", "CosineAnnealingRestartLR": "cosine"}


def _ours(config: dict[str, Any], base: float) -> list[float]:
    options = {
        key: config[key] for key in ("milestones", "gamma", "restarts", "restart_weights", "periods") if key in config
    }
    return [
        learning_rate(
            step,
            base=base,
            schedule=_SCHEDULES[config["type"]],  # type: ignore[arg-type]
            minimum=config.get("eta_min", 0.0),
            warmup=max(0, config["warmup_iter"]),
            **options,
        )
        for step in range(1, 61)
    ]


@pytest.mark.parametrize(
    "name", ["multistep", "multistep_restart", "multistep_resume30", "cosine", "cosine_warmup", "multistep_warmup"]
)
def test_rates_equal_the_original(name: str, golden: Callable[[str], Path]) -> None:
    arrays = np.load(golden("lr_curves.npz"), allow_pickle=False)
    config, curve = json.loads(str(arrays[f"{name}__config"])), arrays[f"{name}__lr64"]
    for column, base in enumerate(config["base_lr"]):
        expected = curve[:, column].copy()
        if name == "multistep_warmup":
            expected[9:] /= 0.9  # its defect: after the warm-up it stays at (W - 1)/W of the rate
        np.testing.assert_allclose(_ours(config, base), expected, rtol=1e-9)


def test_a_milestone_inside_the_warmup_is_not_lost(golden: Callable[[str], Path]) -> None:
    arrays = np.load(golden("lr_curves.npz"), allow_pickle=False)
    config = json.loads(str(arrays["multistep_milestone_inside_warmup__config"]))
    milestones, warmup, gamma = config["milestones"], config["warmup_iter"], config["gamma"]
    expected = [
        2e-4 * gamma ** sum(m < t for m in milestones) * min(1, t / warmup) for t in range(1, 61)
    ]  # training_spec section 11
    np.testing.assert_allclose(_ours(config, 2e-4), expected, rtol=1e-12)
    # the original loses it: twice our rate, less its other defect
    np.testing.assert_allclose(arrays["multistep_milestone_inside_warmup__lr64"][10:, 0], np.array(expected[10:]) * 1.8)
