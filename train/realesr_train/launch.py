"""A run from its configuration to its model file: run folders, resuming, and the stages one after the other.

A run of one stage lives in its run folder; of several each lives in `stage1`, `stage2`, ... of it, and begins with the
model of the one before. Each such folder holds its resolved configuration, `config.toml`.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.distributed import DistError

from realesr_cli.atomic import output_error, replacing
from realesr_cli.errors import ConfigError, DeviceError, OutOfMemory, RealesrError, UsageError
from realesr_cli.memory import is_out_of_memory, keep_freed_memory
from realesr_cli.models.architectures import load_model
from realesr_cli.reporting import NULL, Reporter
from realesr_train import checkpoint, distributed
from realesr_train.data.loading import batches
from realesr_train.distributed import World
from realesr_train.export import export_run, training_facts
from realesr_train.feed import pairs
from realesr_train.held_out import Data, open_data
from realesr_train.interrupts import Interrupts
from realesr_train.parts import choose_precision, make_discriminator, make_distiller, make_network, make_terms
from realesr_train.recipes import load_config
from realesr_train.run_log import RunLog
from realesr_train.tables import dump
from realesr_train.train_checks import differences
from realesr_train.train_config import TrainConfig
from realesr_train.trainer import Trainer

MODEL = "model.safetensors"
CONFIG = "config.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What came of a run."""

    model: Path
    steps: int
    best: dict[str, float]


def run_folder(stages: Sequence[TrainConfig]) -> Path:
    """Where a run is written."""
    run = stages[0].run
    return run.folder if run.folder is not None else Path("runs") / run.name


def check_data(stages: Sequence[TrainConfig], reporter: Reporter) -> str:
    """Looks at all data of a run and says in one line what there is. Raises: InputError, ConfigError."""
    data = [open_data(config, reporter) for config in stages]
    for config in stages:
        check_parts(config, reporter)
    pictures = ", ".join(sorted({f"{len(one.source)} to train on, {len(one.pairs)} to validate on" for one in data}))
    steps = sum(config.run.steps for config in stages)
    return f"{len(stages)} stage{'s' * (len(stages) > 1)}, {steps} steps; pictures: {pictures}"


def check_parts(config: TrainConfig, reporter: Reporter) -> None:
    """Makes all networks of a stage and forgets them. Raises: UsageError, ConfigError, ModelError."""
    cpu = torch.device("cpu")
    make_network(config, reporter)
    if config.is_adversarial:
        make_discriminator(config, reporter)
    make_terms(config, cpu, reporter)
    make_distiller(config, cpu, None, reporter)


def train(stages: Sequence[TrainConfig], reporter: Reporter, *, allow_change: bool = False) -> Result:
    """Runs all stages, each from where it stands; `reporter` hears of the first rank only.

    Raises: RealesrError of every kind; KeyboardInterrupt or SystemExit after the checkpoint of an interruption.
    """
    folder = run_folder(stages)
    with distributed.joined(stages[0].run.device) as world:
        reporter = reporter if world.is_main else NULL
        _prepare(stages[0].run.threads, world)
        for stage in stages:
            _check_share(stage, world)
        for stage in stages[1:]:  # what it lacks is better known now than in a week
            check_parts(stage, reporter)
            if (stage.data, stage.validation) != (stages[0].data, stages[0].validation):
                open_data(stage, reporter)
        result = None
        for number, described in enumerate(stages):
            stage = described
            place = folder if len(stages) == 1 else folder / f"stage{number + 1}"
            if result is not None and not stage.model.start_from:
                stage = replace(stage, model=replace(stage.model, start_from=str(result.model.resolve())))
            counted = (number + 1, len(stages))
            with _failures_of_torch_told(stage, world):
                result = _train_stage(stage, place, world, reporter, stage=counted, allow_change=allow_change)
        assert result is not None
        if len(stages) > 1 and world.is_main:
            with replacing(folder / MODEL) as temporary:
                temporary.write_bytes(result.model.read_bytes())
            result = replace(result, model=folder / MODEL)
        return replace(result, steps=sum(stage.run.steps for stage in stages))


@contextmanager
def _failures_of_torch_told(config: TrainConfig, world: World) -> Iterator[None]:
    """Raises: OutOfMemory, ConfigError (torch.compile cannot work here), DeviceError (another process is gone) in place
    of what torch raises.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if config.run.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            why = str(error).partition("\n")[0]
            hint = "it needs a C++ compiler, on a GPU also the package triton; or say run.compile = false"
            raise ConfigError(f"run.compile = true: torch.compile fails here: {why}", hint=hint) from error
        if isinstance(error, DistError) or (world.size > 1 and "gloo" in str(error)):
            raise DeviceError(
                f"process {world.rank + 1} of {world.size} has lost the others",
                hint="the first that failed says why; the same command goes on from the last checkpoint",
            ) from error
        if not is_out_of_memory(error):
            raise
        data = config.data
        raise OutOfMemory(
            f"not enough memory on {world.device} to train with data.batch = {data.batch} in "
            f"data.accumulate = {data.accumulate} parts, data.patch_px = {data.patch_px}",
            hint="raise data.accumulate, or lower the others; --allow-change goes on with that",
        ) from error


def _train_stage(
    config: TrainConfig,
    folder: Path,
    world: World,
    reporter: Reporter,
    *,
    stage: tuple[int, int],
    allow_change: bool,
) -> Result:
    config = replace(config, run=replace(config.run, folder=folder))
    _agree(config, folder, reporter, allow_change=allow_change)
    found = checkpoint.latest(folder, reporter)
    if found is not None and found.step >= config.run.steps and (folder / MODEL).is_file():
        reporter.emit("note", message=f"{folder} has its {config.run.steps} steps already")
        return Result(model=folder / MODEL, steps=found.step, best=dict(found.facts["best"]))
    data = open_data(config, reporter)
    precision = config.run.precision
    if precision == "auto" and found is not None:
        precision = found.facts["precision"]  # what "auto" meant when the run began
    trainer = Trainer(config, choose_precision(precision, world.device), world, reporter)
    if found is not None:
        trainer.load_state(found)
    if world.is_main:
        _write_config(config, folder)
        _announce(trainer, data, folder, stage, reporter)
    _run(trainer, data, folder, reporter)
    distributed.barrier(world)
    if world.is_main:
        _export(trainer, data, folder)
    return Result(model=folder / MODEL, steps=trainer.step, best=trainer.best)


def _run(trainer: Trainer, data: Data, folder: Path, reporter: Reporter) -> None:
    config, world = trainer.config, trainer.world
    pictures = batches(
        data.source,
        seed=config.run.seed,
        first_step=trainer.step,
        batch=config.new_per_step,
        rank=world.rank,
        world=world.size,
        accumulate=config.data.accumulate,
        workers=config.data.workers,
        depth=config.data.prefetch * config.data.accumulate,
    )
    with ExitStack() as stack:
        log = None
        if world.is_main:
            log = stack.enter_context(
                RunLog(folder, reporter, resume_step=trainer.step, tensorboard=config.run.tensorboard)
            )
        interrupts = stack.enter_context(Interrupts(is_main=world.is_main))
        trainer.run(pairs(config, pictures, world.device), data.pairs, folder, log, interrupts)


def _check_share(config: TrainConfig, world: World) -> None:
    """Raises: ConfigError."""
    data, count = config.data, config.new_per_step
    if count % (world.size * data.accumulate):
        new = f"data.batch = {count}" if count == data.batch else f"data.batch / pool.reuse = {count}"
        raise ConfigError(
            f"{new} does not divide among {world.size} devices in {data.accumulate} parts each",
            hint="change data.batch, data.accumulate or the number of devices",
        )


def _agree(config: TrainConfig, folder: Path, reporter: Reporter, *, allow_change: bool) -> None:
    """Raises: UsageError, if the folder holds a run of another configuration."""
    file = folder / CONFIG
    if not file.is_file():
        if folder.is_dir() and checkpoint.folders(folder):
            raise UsageError(f"{folder} holds checkpoints, but no {CONFIG}", hint="choose another folder with -o")
        return
    changes = differences(load_config(file), config)
    if not changes:
        return
    listed = "; ".join(f"{key} was {before!r}, is {after!r}" for key, before, after in changes[:5])
    listed += f"; and {len(changes) - 5} more" if len(changes) > 5 else ""
    if not allow_change:
        raise UsageError(
            f"{folder} holds a run of another configuration: {listed}",
            hint="--allow-change goes on with the new one; -o with another folder begins anew",
        )
    reporter.emit("warning", code="changed", message=f"the run goes on otherwise than it began: {listed}", hint=None)


def _write_config(config: TrainConfig, folder: Path) -> None:
    """Raises: OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, folder) from error
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(dump(config), encoding="utf-8")


def _announce(trainer: Trainer, data: Data, folder: Path, stage: tuple[int, int], reporter: Reporter) -> None:
    config = trainer.config
    size = sum(parameter.numel() for parameter in trainer.ema.network.parameters())
    reporter.emit(
        "training",
        stage=stage[0],
        stages=stage[1],
        folder=str(folder),
        architecture=type(trainer.ema.network).__name__,
        scale=config.scale,
        parameters=size,
        device=str(trainer.world.device),
        devices=trainer.world.size,
        precision=trainer.precision,
        step=trainer.step,
        total=config.run.steps,
        batch=config.data.batch,
        pictures=len(data.source),
        validation=len(data.pairs),
    )


def _export(trainer: Trainer, data: Data, folder: Path) -> None:
    config = trainer.config
    loss = config.loss.distill
    teachers = [name for name in (loss.teacher, loss.second) if name and "teacher" in config.loss.targets()]
    sources = [name for name in (config.model.start_from, *teachers) if name]
    facts = training_facts(
        recipe=config.run.name,
        steps=trainer.step,
        pictures=len(data.source),
        metrics={key: value for key, value in trainer.last_metrics.items() if key != "step"},
        config=dump(config),
        licence=_licence(sources),
        start=config.model.start_from or ("bilinear" if config.model.init == "bilinear" else "random"),
        teachers=teachers,
    )
    export_run(trainer.ema.network, folder / MODEL, name=config.run.name, metadata=facts)


def _licence(sources: Sequence[str]) -> str:
    """A network that began with others, or learnt from them, is under their licence too."""
    found = []
    for name in sources:
        try:
            found.append(load_model(name).metadata.get("licence", "unknown"))
        except RealesrError:  # the run is over and its model must be written
            found.append("unknown")
    return " and ".join(dict.fromkeys(found)) or "yours to choose"


def _prepare(wanted: int, world: World) -> None:
    """Threads, memory and autotuning: all networks see patches of one size, the degradation switches tuning off."""
    torch.backends.cudnn.benchmark = True
    if world.device.type == "cpu":
        keep_freed_memory()
    if wanted:
        torch.set_num_threads(wanted)
    elif world.size > 1 and world.device.type == "cpu":
        here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // here))
