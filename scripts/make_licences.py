"""Writes docs/licences.md: the licence of every package that an installation brings, and of every model.

python scripts/make_licences.py

The packages are those installed here, in the versions of constraints.txt; the models are those of the catalogue.
"""

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from realesr_cli import catalog

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
NOT_FOR_USERS = ("dev", "docs")
# what extras bring need not be installed here
OF_EXTRAS = {"spandrel": "MIT", "tensorboard": "Apache-2.0", "ray": "Apache-2.0"}
# metadata that says it less well than the project's own licence file
CLEARER = {
    "jinja2": "BSD-3-Clause",
    "mpmath": "BSD-3-Clause",
    "opencv-python": "Apache-2.0",
    "safetensors": "Apache-2.0",
    "sympy": "BSD-3-Clause",
}

HEAD = """\
# Licences

Made by `scripts/make_licences.py`. realesr itself is MIT. In its wheel there are also small files of others, with their
licences beside them: the heads of LPIPS (BSD-2-Clause), the statistics of NIQE (Apache-2.0), and the model
`realesr-lite-x4`, which was taught by two of Real-ESRGAN's and stands under their licence (BSD-3-Clause).
"""
NOTES = """\
Three of these packages hold native libraries under terms of their own. The wheels of `av` bring FFmpeg (as built there:
LGPL-3.0-or-later) together with x264 and x265 (GPL-2.0-or-later): who passes on a bundle with them must follow the GPL.
`opencv-python` brings what its `LICENSE-3RD-PARTY.txt` lists. The CUDA builds of `torch` bring NVIDIA's libraries under
NVIDIA's terms. realesr passes none of them on: pip fetches them.
"""
MODELS = """\
## Models

Only the first is part of realesr; others are fetched when you ask for them, from where their authors publish them.
`realesr models info NAME` says the same of one.
"""


def page() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [HEAD, "## Packages of every installation", "", "| package | licence |", "|---|---|"]
    lines += [f"| {name} | {licence(name)} |" for name in closure(project["dependencies"])]
    lines += ["", NOTES, "## Packages of extras", "", "| extra | package | licence |", "|---|---|---|"]
    for extra, requirements in project["optional-dependencies"].items():
        names = [Requirement(text).name for text in requirements if extra not in NOT_FOR_USERS]
        lines += [f"| `{extra}` | {name} | {OF_EXTRAS[name]} |" for name in names]
    lines += ["", MODELS, "| model | kind | licence | source |", "|---|---|---|---|", *models()]
    return "\n".join(lines) + "\n"


def models() -> list[str]:
    """One row for each entry of the catalogue."""
    rows = []
    for entry in catalog.CATALOG:
        source = f"[{entry.file_name}]({entry.urls[0]})" if entry.urls else f"this project ({entry.file_name})"
        terms = entry.licence + ("; **no commercial use**" if entry.non_commercial else "")
        rows.append(f"| `{entry.name}` | {entry.kind} | {terms} | {source} |")
    return rows


def closure(requirements: list[str]) -> list[str]:
    """The packages that these bring on this machine, themselves included, sorted."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        one = waiting.pop()
        extras = {"", *one.extras}
        name = re.sub(r"[-_.]+", "-", one.name).lower()
        if name in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or []:
            below = Requirement(text)
            if below.marker is None or any(below.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(below)
    return sorted(found)


def licence(package: str) -> str:
    """The licence that an installed package states."""
    facts = metadata.metadata(package)
    short = (facts.get("License") or "").strip()
    classes = [text.rpartition(" :: ")[2] for text in facts.get_all("Classifier") or [] if text.startswith("License")]
    stated = facts.get("License-Expression") or (short if 0 < len(short) < 60 else "") or ", ".join(classes)
    if not stated and package not in CLEARER:
        raise SystemExit(f"{package} states no licence: look it up, and add it to CLEARER")
    return CLEARER.get(package, stated).removesuffix(" License")


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
