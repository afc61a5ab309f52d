"""The training loop, and the one owner of all that changes in a run: networks, optimizers, average, pool, step.

Everything random follows from the seed and the number of a sample or step, so the step is all that has to be known to
go on. All ranks hold the same state; rank 0 writes it. The host waits for the device only where something is logged.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from realesr_cli.errors import CorruptWeights, TrainingDiverged
from realesr_cli.reporting import Reporter
from realesr_train.alarms import alarms
from realesr_train.checkpoint import Checkpoint, Tensors, load_optimizer, optimizer_tensors, save
from realesr_train.clock import Clock, peak_memory_mib
from realesr_train.curves import draw_curves
from realesr_train.data.pool import PairPool
from realesr_train.degradation.filters import sharpen
from realesr_train.distributed import World, gather, share, wrap
from realesr_train.ema import Ema
from realesr_train.feed import Pairs
from realesr_train.interrupts import Interrupts
from realesr_train.meter import Meter
from realesr_train.optim import make_optimizer, set_learning_rate
from realesr_train.parts import make_discriminator, make_distiller, make_game, make_network, make_terms, placed, rates
from realesr_train.run_log import RunLog
from realesr_train.sheets import sample_path, write_sheet
from realesr_train.steps import Batch, Update, gan_step, generator_is_due, pixel_step
from realesr_train.train_config import TrainConfig
from realesr_train.validation import Pair, Pixels, bicubic_outputs, scores, validate

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_DATASET = "validation"


@dataclass(slots=True)
class _Side:
    """One network under training, as it is called (`wrapped`), and how it is updated."""

    network: nn.Module
    wrapped: nn.Module
    update: Update


class Trainer:
    """A run on one rank; `run` trains from `step` to the end.

    `precision` is fp32, bf16 or fp16. Raises: ConfigError, UsageError, ModelError (weights that cannot be had or used).
    """

    def __init__(self, config: TrainConfig, precision: str, world: World, reporter: Reporter) -> None:
        self.config, self.precision, self.world = config, precision, world
        self.step = 0
        self.best: dict[str, float] = {}
        """Step and values of the best validation, by PSNR on luma."""
        self.last_metrics: dict[str, float] = {}
        """Those of the newest one."""
        self._autocast = _AUTOCAST[precision]
        self._scaler = torch.amp.GradScaler(world.device.type) if precision == "fp16" else None
        generator = placed(make_network(config, reporter), world.device).train()
        self.ema = Ema(generator, config.ema.decay)
        # weight and bias of the last convolution
        last = 2 if config.optim.last_share < 1 else 0
        self._generator = self._side(generator, config.optim.lr, always_alike=config.data.accumulate == 1, last=last)
        self._discriminator: _Side | None = None
        if config.is_adversarial:
            discriminator = placed(make_discriminator(config, reporter), world.device)
            self._discriminator = self._side(discriminator.train(), config.discriminator.lr, always_alike=False)
        self._terms = make_terms(config, world.device, reporter)
        self._game = make_game(config)
        self._teacher = make_distiller(config, world.device, self._autocast, reporter)
        self._pool = PairPool(config.pool.size, config.pool.reuse) if config.has_pool else None
        if config.run.compile:
            generator.compile()
        self._meter = Meter(world.device)
        self._skipped = 0

    def _side(self, network: nn.Module, rate: float, *, always_alike: bool, last: int = 0) -> _Side:
        optim = self.config.optim
        optimizer = make_optimizer(
            network.parameters(),
            learning_rate=rate,
            name=optim.name,
            betas=optim.betas,
            weight_decay=optim.weight_decay,
            last=last,
            last_share=optim.last_share,
        )
        update = Update(optimizer=optimizer, clip_norm=optim.clip_norm or None, scaler=self._scaler)
        return _Side(network, wrap(network, self.world, always_alike=always_alike), update)

    def run(
        self, feed: Iterator[Pairs], pairs: Sequence[Pair], folder: Path, log: RunLog | None, interrupts: Interrupts
    ) -> None:
        """Trains to the last step on the pairs of `feed`, whose first is that of step `self.step` + 1.

        `log` is None on all ranks but the first, which alone validates on `pairs` and writes to `folder`.

        Raises: TrainingDiverged, OutputError; KeyboardInterrupt or SystemExit after the checkpoint of an interruption.
        """
        run, total = self.config.run, self.config.run.steps
        if log is not None and self.step == 0 and pairs:
            log.metrics(0, "bicubic", scores(bicubic_outputs(pairs), pairs))
        clock = Clock()
        with closing(feed):  # type: ignore[type-var]
            while self.step < total:
                with clock.step():
                    lq, gt = next(feed)
                self.step += 1
                self._meter.add(self._train(lq, gt))
                is_last = self.step == total
                if self.step % run.log_every == 0 or is_last:
                    self._log(log, clock)
                if log is None:
                    continue
                if pairs and _is_due(self.step, self.config.validation.every, is_last):
                    with clock.stopped():
                        self._validate(log, pairs, folder)
                stopped = interrupts.status is not None
                if _is_due(self.step, self.config.checkpoint.every, is_last) or stopped:
                    with clock.stopped():
                        self._save(log, folder)
                if stopped and not is_last:
                    message = f"stopped after step {self.step}; the same command goes on from there"
                    log.warn(self.step, [("interrupted", message, "")])
                    interrupts.leave()

    def _train(self, lq: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """One step; what it gives back, on the device."""
        config, game = self.config, self.config.loss.adversarial
        batches = self._batches(lq, gt)
        rate, discriminator_rate = rates(config, self.step)
        generator, discriminator = self._generator, self._discriminator
        set_learning_rate(generator.update.optimizer, rate)
        if discriminator is None:
            return pixel_step(
                generator.wrapped, batches, self._terms, generator.update, ema=self.ema, autocast=self._autocast
            )
        set_learning_rate(discriminator.update.optimizer, discriminator_rate)
        return gan_step(
            generator.wrapped,
            discriminator.wrapped,
            batches,
            self._terms,
            self._game,
            generator.update,
            discriminator.update,
            update_generator=generator_is_due(self.step, every=game.generator_every, after=game.generator_after),
            ema=self.ema,
            autocast=self._autocast,
        )

    @torch.no_grad()
    def _batches(self, lq: Tensor, gt: Tensor) -> list[Batch]:
        """With the teacher's output through the pool, which is that of all ranks together, to micro-batches with all
        targets.

        Source: training_spec sections 5 (step 11), 6 and 10.
        """
        parts = self.config.data.accumulate
        pictures = {"lq": lq, "gt": gt}
        if self._teacher is not None:
            pictures["teacher"] = self._teacher(lq, gt)
        if self._pool is not None:
            pictures = {name: gather(one, self.world, parts) for name, one in pictures.items()}
            pictures = self._pool.exchange(pictures, seed=self.config.run.seed, step=self.step)
            pictures = {name: share(one, self.world, parts) for name, one in pictures.items()}
        if "gt_usm" in self.config.loss.targets():
            pictures["gt_usm"] = sharpen(pictures["gt"])
        split = {
            name: [part.contiguous(memory_format=torch.channels_last) for part in one.chunk(parts)]
            for name, one in pictures.items()
        }
        return [Batch(**dict(zip(split, group, strict=True))) for group in zip(*split.values(), strict=True)]

    def _log(self, log: RunLog | None, clock: Clock) -> None:
        """Reads the means since the last time. Raises: TrainingDiverged."""
        losses, skipped, row = self._meter.read(self.world)
        self._skipped += skipped
        step_s, data_s = clock.read()
        if log is not None:
            log.step(
                self.step,
                self.config.run.steps,
                losses,
                learning_rate=rates(self.config, self.step)[0],
                images_per_s=self.config.data.batch / step_s,
                data_s=data_s,
                step_s=step_s,
                memory_mib=peak_memory_mib(self.world.device),
                skipped=self._skipped,
            )
            self._warn(log)
        if row >= self.config.run.max_skipped:
            raise TrainingDiverged(
                f"{row} steps in a row had no finite gradient; the last checkpoint is from before step {self.step}",
                hint='lower optim.lr, set optim.clip_norm = 1, or run.precision = "fp32"; then run the same command',
            )

    def _validate(self, log: RunLog, pairs: Sequence[Pair], folder: Path) -> None:
        shown = {pair.name for pair in pairs[: self.config.validation.samples]}

        def keep(pair: Pair, output: Pixels) -> None:
            if pair.name in shown:
                write_sheet(sample_path(folder, self.step, pair.name), pair, output)

        values = validate(self.ema.network, pairs, on_output=keep)
        self.last_metrics = values
        if values["psnr_y_db"] > self.best.get("psnr_y_db", float("-inf")):
            self.best = {"step": self.step, **values}
        log.metrics(self.step, _DATASET, values)
        self._warn(log)
        draw_curves(folder / "log.csv", folder / "progress.png")

    def _warn(self, log: RunLog) -> None:
        loss = self.config.loss
        found = alarms(log.history, dataset=_DATASET, pixel_loss="pixel" if loss.pixel.weight else "distill")
        if loss.adversarial.kind != "vanilla":  # the alarms know the logistic losses only
            found = [alarm for alarm in found if not alarm.code.startswith("discriminator")]
        log.warn(self.step, found)

    def _save(self, log: RunLog, folder: Path) -> None:
        """Raises: DiskFull, OutputError; the checkpoint before is kept then."""
        keep = self.config.checkpoint
        path, size = save(folder, self.state(), keep_last=keep.keep_last, keep_every=keep.keep_every)
        log.checkpoint(self.step, path, size)
        draw_curves(folder / "log.csv", folder / "progress.png")

    def state(self) -> Checkpoint:
        """All that `load_state` needs for the run to go on as if it had not been interrupted."""
        groups: dict[str, Tensors] = {
            "model": dict(self._generator.network.state_dict()),
            "ema": self.ema.state_dict(),
            "optimizer": optimizer_tensors(self._generator.update.optimizer),
        }
        if self._discriminator is not None:
            groups["discriminator"] = dict(self._discriminator.network.state_dict())
            groups["discriminator_optimizer"] = optimizer_tensors(self._discriminator.update.optimizer)
        if self._pool is not None:
            groups["pool"] = self._pool.state()
        facts: dict[str, Any] = {
            "precision": self.precision,
            "best": self.best,
            "last_metrics": self.last_metrics,
            "skipped": self._skipped,
        }
        if self._scaler is not None:
            facts["scaler"] = self._scaler.state_dict()
        return Checkpoint(step=self.step, groups=groups, facts=facts)

    def load_state(self, checkpoint: Checkpoint) -> None:
        """Takes what `state` gave; the next step is `checkpoint.step` + 1.

        Raises: CorruptWeights, if it is that of another network.
        """
        groups, facts = checkpoint.groups, checkpoint.facts
        try:
            self._generator.network.load_state_dict(groups["model"])
            self.ema.load_state_dict(groups["ema"])
            load_optimizer(self._generator.update.optimizer, groups["optimizer"])
            # a run that gets a discriminator later (--allow-change) begins with a new one
            if self._discriminator is not None and "discriminator" in groups:
                self._discriminator.network.load_state_dict(groups["discriminator"])
                load_optimizer(self._discriminator.update.optimizer, groups["discriminator_optimizer"])
            # nor does a pool fit a run that has a teacher since
            if self._pool is not None and ("teacher" in groups.get("pool", {})) == (self._teacher is not None):
                self._pool.load_state(groups["pool"])
            if self._scaler is not None and "scaler" in facts:
                self._scaler.load_state_dict(facts["scaler"])
        except (RuntimeError, LookupError, ValueError) as error:
            first = str(error).strip().splitlines()[-1].strip()
            raise CorruptWeights(
                f"the checkpoint of step {checkpoint.step} does not fit this configuration: {first}",
                hint="train in a new folder with -o, and take its weights with model.start_from",
            ) from error
        self.step = checkpoint.step
        self.best, self.last_metrics = dict(facts["best"]), dict(facts["last_metrics"])
        self._skipped = int(facts["skipped"])


def _is_due(step: int, every: int, is_last: bool) -> bool:
    return every > 0 and (step % every == 0 or is_last)
