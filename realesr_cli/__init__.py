"""realesr: upscale pictures with the Real-ESRGAN family.

    from realesr_cli import Upscaler, read_image, write_image
    picture = read_image("in.jpg")
    write_image("out.png", picture.replace(Upscaler("realesrgan-x4plus")(picture.pixels)))

Reading order: options.py, cli/image.py, image_jobs.py, upscaler.py, tiling.py, models/architectures.py,
models/compact.py. Names below are loaded at first use, so that `import realesr_cli` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realesr_cli.catalog import list_models
    from realesr_cli.errors import RealesrError
    from realesr_cli.image_io import Image, read_image, write_image
    from realesr_cli.models.architectures import LoadedModel, load_model
    from realesr_cli.options import DeviceOptions, SizeOptions, TileOptions, VideoOptions
    from realesr_cli.upscaler import Upscaler
    from realesr_cli.video.upscale import upscale_video

__version__ = "0.1.0"

_HOMES = {
    "DeviceOptions": "options",
    "Image": "image_io",
    "LoadedModel": "models.architectures",
    "RealesrError": "errors",
    "SizeOptions": "options",
    "TileOptions": "options",
    "Upscaler": "upscaler",
    "VideoOptions": "options",
    "list_models": "catalog",
    "load_model": "models.architectures",
    "read_image": "image_io",
    "upscale_video": "video.upscale",
    "write_image": "image_io",
}

__all__ = [
    "DeviceOptions",
    "Image",
    "LoadedModel",
    "RealesrError",
    "SizeOptions",
    "TileOptions",
    "Upscaler",
    "VideoOptions",
    "__version__",
    "list_models",
    "load_model",
    "read_image",
    "upscale_video",
    "write_image",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
