"""Puts a trained model into the package: half precision, its origin in the metadata, its checksum in the catalogue.

    python scripts/embed_model.py runs/lite/model.safetensors

docs/default_model.md says how it was trained and what it is worth; measure again after running this.
"""

import argparse
import re
from pathlib import Path

from realesr_cli import catalog
from realesr_cli.auto import EMBEDDED
from realesr_cli.cache import sha256_of
from realesr_cli.models.architectures import load_model
from realesr_train.export import export_run

PACKAGE = Path(__file__).resolve().parent.parent / "realesr_cli"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model.safetensors of a training run")
    model = load_model(parser.parse_args().model)
    entry = catalog.find(EMBEDDED)
    target = PACKAGE / "embedded" / entry.file_name
    target.parent.mkdir(exist_ok=True)
    said = {**model.metadata, "licence": entry.licence}
    export_run(model.network, target, name=entry.name, metadata=said, half=True)
    row = re.compile(rf'(file_name="{entry.file_name}".*?sha256=")[^"]*(",\s*size_bytes=)[\d_]+', re.DOTALL)
    code = PACKAGE / "catalog.py"
    changed = row.sub(rf"\g<1>{sha256_of(target)}\g<2>{target.stat().st_size:_}", code.read_text("utf-8"))
    code.write_text(changed, "utf-8")
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, metadata {said}")


if __name__ == "__main__":
    main()
