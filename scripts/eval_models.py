"""The table of docs/default_model.md: models on the project's evaluation sets, as Markdown or one JSON object.

    python scripts/eval_models.py DATA --lpips-weights squeezenet1_1.pth

DATA holds set5/ and set14/ (HR and LR_bicubic_x4) and eval/hr. The first and second order degradations have the seed 0.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SETS = {
    "Set5, bicubic pairs": ("set5/LR_bicubic_x4", "--hr", "set5/HR"),
    "Set14, bicubic pairs": ("set14/LR_bicubic_x4", "--hr", "set14/HR"),
    "photographs, bicubic": ("eval/hr", "--degradation", "bicubic"),
    "the same, first order": ("eval/hr", "--degradation", "first"),
    "the same, second order": ("eval/hr", "--degradation", "second"),
}
"""Title of a set -> its folder and what `realesr eval` is told of it."""

Means = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the evaluation sets")
    parser.add_argument("-m", "--model", action="append", help="default: bicubic, general-x4v3, lite-x4")
    parser.add_argument("--lpips-weights", help="backbone, where there is no network")
    parser.add_argument("--keep-colours", action="store_true", help="compare each model with itself and the option")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    models = options.model or ["bicubic", "realesr-general-x4v3", "realesr-lite-x4"]
    extra = ["--lpips-weights", options.lpips_weights] if options.lpips_weights else []
    results = {}
    for title, (folder, how, what) in SETS.items():
        told = str(options.data / what) if how == "--hr" else what
        arguments = ["--data", str(options.data / folder), how, told, "--metrics", "psnr,lpips,shift", *extra]
        results[title] = evaluate(models, arguments)
        if options.keep_colours:
            kept = evaluate(models, [*arguments, "--keep-colours"])
            results[title] |= {f"{name} +colours": values for name, values in kept.items() if name != "bicubic"}
    print(json.dumps(results) if options.json else markdown(results))


def evaluate(models: list[str], arguments: list[str]) -> Means:
    """The mean of each number of each model over one set."""
    named = [part for model in models for part in ("-m", model)]
    command = [sys.executable, "-m", "realesr_cli", "eval", *named, *arguments, "--json"]
    with tempfile.TemporaryFile("w+") as events:
        subprocess.run(command, stdout=events, check=True)
        events.seek(0)
        found: list[dict[str, Any]] = [json.loads(line) for line in events]
    return {
        event["model"]: event["values"] for event in found if event["event"] == "metrics" and event["picture"] is None
    }


def markdown(results: dict[str, Means]) -> str:
    """One row for a set, one column for a model: PSNR-Y / LPIPS / shift."""
    models = list(next(iter(results.values())))
    lines = [" | ".join(["| set", *models]) + " |", "|---" * (len(models) + 1) + "|"]
    for title, means in results.items():
        cells = [
            f"{values['psnr_y_db']:.2f} / {values['lpips_squeeze']:.3f} / {values['shift_levels']:.1f}"
            for values in (means[model] for model in models)
        ]
        lines.append(" | ".join([f"| {title}", *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
