"""The pictures that `--save-faces` keeps: NAME_face1.png, ..., a face before on the left, after on the right."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from realesr_cli.atomic import check_inside, output_error
from realesr_cli.errors import OutputExists
from realesr_cli.image_io import Image, write_image
from realesr_cli.naming import file_name


def check_faces(folder: Path, result: Path, *, overwrite: bool) -> None:
    """Raises: OutputExists, before any work, where the first of a result's faces could not be kept."""
    file = _face_file(folder, result, 1)
    if file.exists() and not overwrite:
        raise OutputExists(f"{file} is already there", hint="--overwrite replaces it", path=file)


def save_faces(pairs: Sequence[NDArray[Any]], folder: Path, result: Path, *, overwrite: bool) -> None:
    """Writes the pairs of a result, of which `result` is the path within the folder of all results.

    Raises: OutputError, OutputExists.
    """
    for number, pair in enumerate(pairs, 1):
        file = _face_file(folder, result, number)
        check_inside(file, folder)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(error, file.parent) from error
        write_image(file, Image(pixels=pair), overwrite=overwrite)


def _face_file(folder: Path, result: Path, number: int) -> Path:
    # the whole name: of a.jpg and a.png both may be there
    return folder / result.parent / file_name(result.name, f"_face{number}.png")
