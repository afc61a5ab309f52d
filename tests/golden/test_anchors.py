"""What is known of the official models on Set5 (x4, MATLAB's bicubic): it proves pictures, pairing and metrics.

The numbers were measured with other code than ours, on the same files.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from realesr_cli import DeviceOptions, Upscaler
from realesr_cli.errors import RealesrError
from realesr_cli.options import Precision
from realesr_train import evaluation
from realesr_train.eval_set import Sample
from realesr_train.evaluation_report import means
from recording import Events

Finder = Callable[[str], Path]
FILES = {
    "animevideov3": "realesr-animevideov3.pth",
    "general-x4v3": "ncnn/realesr-general-x4v3.param",
    "general-wdn-x4v3": "ncnn/realesr-general-wdn-x4v3.param",
    "x4plus": "realesrgan-x4plus.param",
}
ANCHORS = {
    "nearest": (26.26, 0.2439),
    "animevideov3": (28.24, 0.2195),
    "general-x4v3": (26.64, 0.1820),
    "general-wdn-x4v3": (26.70, 0.1426),
    "x4plus": (26.67, 0.1380),
}
"""PSNR on luma, dB, and LPIPS-squeeze."""


def _scores(names: list[str], data: Finder, weights_file: Finder, precision: Precision) -> dict[str, dict[str, float]]:
    options = evaluation.EvalOptions(
        data=data("set5/LR_bicubic_x4"),
        hr=data("set5/HR"),
        metrics=("psnr", "lpips"),
        lpips_weights=(str(weights_file("perceptual/squeezenet1_1-features.safetensors")),),
    )

    def contender(name: str) -> evaluation.Contender:
        if name in evaluation.INTERPOLATIONS:
            return evaluation.interpolation(name)
        upscaler = Upscaler(weights_file(FILES[name]), device=DeviceOptions(device="cpu", precision=precision))
        return evaluation.Contender(label=name, scale=4, enlarge=lambda pixels, scale: upscaler(pixels))

    def fail(sample: Sample, error: RealesrError) -> None:
        raise error

    samples, unpaired = evaluation.find_samples(options, Events())
    assert len(samples) == 5 and not unpaired
    contenders = [contender(name) for name in names]
    rows = evaluation.evaluate(options, samples, contenders, device="cpu", reporter=Events(), fail=fail)
    return means(rows, names, ["psnr_y_db", "lpips_squeeze"])


def _check(scores: dict[str, dict[str, float]]) -> None:
    for name, (decibels, distance) in ANCHORS.items():
        if name in scores:
            assert scores[name]["psnr_y_db"] == pytest.approx(decibels, abs=0.1), name
            assert scores[name]["lpips_squeeze"] == pytest.approx(distance, abs=0.003), name


def test_set5_gives_the_known_numbers(data: Finder, weights_file: Finder) -> None:
    scores = _scores(["nearest", "bicubic", "animevideov3", "general-x4v3"], data, weights_file, "fp32")
    assert 28.4 < scores["bicubic"]["psnr_y_db"] < 28.7  # it depends on the kernel: a is -1/2 here, -3/4 elsewhere
    _check(scores)


@pytest.mark.slow
def test_set5_gives_the_known_numbers_of_the_others(data: Finder, weights_file: Finder) -> None:
    _check(_scores(["general-wdn-x4v3", "x4plus"], data, weights_file, "auto"))
