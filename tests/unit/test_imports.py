"""Who may import whom, and that `--help` loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import realesr_cli
import realesr_train

ROOT = Path(realesr_cli.__file__).parent
TRAIN = Path(realesr_train.__file__).parent
_LIGHT = {
    "errors",
    "options",
    "catalog",
    "weights",
    "atomic",
    "reporting",
    "tiling",
    "tree",
    "pipeline",
    "process",
    "boxes",
    "containers",
    "image_formats",
    "image_header",
    "journal",
    "machine",
    "metadata",
    "naming",
    "tiff",
    "auto",
    "cache",
    "fetching",
    "ready",
    "cluster",
    "crew",
    "cluster_jobs",
    "pages.frame",
    "pages.compare_page",
}
_HEAVY = {"torch", "numpy", "cv2", "av", "requests", "tqdm", "safetensors", "click", "ray"}
# module -> the project's modules that it may not import, at any level of nesting
_FORBIDDEN = {
    "models": {"device", "engine", "upscaler", "faces", "image_io", "image_jobs", "cli"},
    "faces": {"engine", "upscaler", "image_io", "image_jobs", "cli"},
    "tiling": {"*"},
    "errors": {"*"},
    "image_io": {"models", "device", "engine", "upscaler", "image_jobs", "cli"},
    "inference": {"engine", "upscaler", "faces", "image_io", "image_jobs", "cli"},
    "engine": {"upscaler", "faces", "image_io", "image_jobs", "cli"},
    "upscaler": {"faces", "image_io", "image_jobs", "cli"},
    "video": {"image_jobs", "directory", "cluster", "crew", "cluster_jobs", "cli"},
    "kept_faces": {"faces", "upscaler", "image_jobs", "directory", "video", "cli"},
    "comparison": {"cli"},
    "pages": {"models", "device", "engine", "upscaler", "image_jobs", "comparison", "cli"},
    "image_jobs": {"directory", "cli"},
    "naming": {"image_io", "upscaler", "image_jobs", "directory", "cli"},
    "tree": {"atomic", "image_io", "upscaler", "image_jobs", "naming", "journal", "directory", "cli"},
    "journal": {"image_io", "upscaler", "image_jobs", "naming", "tree", "directory", "cli"},
    "directory": {"ready", "cluster", "crew", "cluster_jobs", "cli"},
    "ready": {"image_io", "image_jobs", "directory", "video", "cluster", "crew", "cluster_jobs", "cli"},
    "cluster": {"models", "device", "image_jobs", "directory", "video", "crew", "cluster_jobs", "cli"},
    "crew": {"models", "device", "image_jobs", "directory", "video", "cluster_jobs", "cli"},
    "cluster_jobs": {"cli"},
}


_LIGHT_TRAIN = {"config", "limits", "loss_config", "processes", "recipes", "tables", "train_checks", "train_config"}
# what the training side may use of the program, and the commands that may use the training side
_SHARED = {
    "__version__",
    "atomic",
    "device",
    "errors",
    "image_formats",
    "image_header",
    "image_io",
    "memory",
    "models",
    "pipeline",
    "reporting",
    "weights",
}
_TRAINING_COMMANDS = {"cli.command_tree", "cli.data", "cli.train", "cli.eval", "comparison"}
_PURE = {"degradation", "losses", "discriminators", "metrics", "features"}
"""Formulas: torch, numpy, the standard library, themselves, the feature networks and the configuration."""


def _modules(root: Path = ROOT) -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(root).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
        for path in root.rglob("*.py")
    }


def _imports(tree: ast.AST, *, top_level_only: bool) -> set[str]:
    nodes = ast.iter_child_nodes(tree) if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_light_modules_import_nothing_heavy() -> None:
    for name, tree in _modules().items():
        if name in _LIGHT or name.startswith("cli") or name in ("__init__", "__main__"):
            roots = {module.split(".")[0] for module in _imports(tree, top_level_only=True)}
            assert not roots & _HEAVY, f"{name} imports {roots & _HEAVY}"


def test_imports_go_one_way() -> None:
    for name, tree in _modules().items():
        forbidden = _FORBIDDEN.get(name.split(".")[0], set())
        ours = {m.split(".")[1] for m in _imports(tree, top_level_only=False) if m.startswith("realesr_cli.")}
        bad = ours if "*" in forbidden else ours & forbidden
        assert not bad, f"{name} imports {bad}"


def test_the_training_side_uses_little_of_the_program_and_its_formulas_nothing() -> None:
    for name, tree in _modules(TRAIN).items():
        imported = _imports(tree, top_level_only=False)
        ours = {module.split(".")[1] for module in imported if module.startswith("realesr_cli.")}
        assert ours <= _SHARED, f"realesr_train.{name} imports {ours - _SHARED}"
        package = name.split(".")[0]
        if package in _PURE:
            allowed = (*sys.stdlib_module_names, "torch", "numpy")
            mine = ("realesr_train.config", "realesr_train.features", "realesr_cli.errors", f"realesr_train.{package}")
            bad = {m for m in imported if m.split(".")[0] not in allowed and not m.startswith(mine)}
            assert not bad, f"realesr_train.{name} imports {bad}"
        if name in _LIGHT_TRAIN:
            roots = {module.split(".")[0] for module in _imports(tree, top_level_only=True)}
            assert not roots & _HEAVY, f"realesr_train.{name} imports {roots & _HEAVY}"


def test_only_training_commands_use_the_training_side_and_only_when_run() -> None:
    for name, tree in _modules().items():
        at_top = {module.split(".")[0] for module in _imports(tree, top_level_only=True)}
        anywhere = {module.split(".")[0] for module in _imports(tree, top_level_only=False)}
        assert "realesr_train" not in at_top, name
        assert "realesr_train" not in anywhere or name in _TRAINING_COMMANDS, name


def test_pickles_are_read_in_one_place_and_nothing_prints() -> None:
    for name, tree in {**{f"train.{name}": tree for name, tree in _modules(TRAIN).items()}, **_modules()}.items():
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert "torch.load" not in calls or name == "models.reading", name
        assert "print" not in calls or name in ("reporting", "cli.main", "cli.models"), name
        assert "import_module" not in calls or name == "__init__", name


def test_help_and_version_load_nothing_heavy() -> None:
    for arguments in (
        ["--version"],
        ["--help"],
        ["models", "clean"],
        ["image", "--help"],
        ["directory", "--help"],
        ["video", "--help"],
        ["data", "degrade", "--help"],
        ["models", "list"],
        ["faces", "--help"],
    ):
        code = (
            f"import sys; sys.argv = ['realesr', *{arguments}]\n"
            "from realesr_cli.cli.main import main\n"
            "try: main()\n"
            f"finally: print(sorted({_HEAVY} & set(sys.modules)), file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stderr.strip() == "[]", f"{arguments}: {done.stderr}"


def test_public_names() -> None:
    assert realesr_cli.__all__ == [
        "DeviceOptions", "Image", "LoadedModel", "RealesrError", "SizeOptions", "TileOptions", "Upscaler",
        "VideoOptions", "__version__", "list_models", "load_model", "read_image", "upscale_video", "write_image",
    ]  # fmt: skip
    for name in realesr_cli.__all__:
        assert getattr(realesr_cli, name) is not None
