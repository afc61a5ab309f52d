"""The figures of docs/scaling.md are those that its script prints."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tables_in_the_documentation_are_the_scripts() -> None:
    script = [sys.executable, str(ROOT / "scripts" / "cost_model.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(script, capture_output=True, text=True, check=True, env=environment)
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    lines = [line for line in done.stdout.splitlines() if line]
    assert len(lines) >= 8 and all(line in text for line in lines)
