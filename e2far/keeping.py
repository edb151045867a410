"""What a training is told, and what is kept of it: a log, and a checkpoint to go on from."""

import copy
import io
import logging
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

import e2far
from e2far import files

VERSIONS = dict(
    e2far=e2far.__version__,
    torch=str(torch.__version__),
    numpy=np.__version__,
    python=platform.python_version(),
)
PROGRESS = ("step", "images", "seconds", "rows", "sums")  # attributes of a Run, in a checkpoint


@dataclass(frozen=True)
class Phase:
    """A stretch of training, of so many steps."""

    steps: int
    heads_rate: float
    trunk_rate: float = 0.0  # 0 freezes the trunk: no gradient, no update, BatchNorm in eval mode
    schedule: str = "cosine"  # falls to 0 at the phase's end; step: the paper's; or constant
    warmup: int = 0  # steps in which rates rise
    milestones: tuple = ()  # of the schedule "step": x0.1 at each of these steps of the phase

    def __post_init__(self):
        if self.schedule not in ("cosine", "step", "constant"):
            raise ValueError(f"schedule {self.schedule!r}: choose cosine, step or constant")

    def rates(self, step):
        """Learning rates of heads and trunk at `step` of this phase."""
        factor = 1.0
        if self.schedule == "step":
            factor = 0.1 ** sum(step >= milestone for milestone in self.milestones)
        if self.schedule == "cosine":
            done = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
            factor = 0.5 * (1 + math.cos(math.pi * done))
        factor *= min(1.0, (step + 1) / (self.warmup + 1))
        return factor * self.heads_rate, factor * self.trunk_rate


def rates_at(phases, step):
    """Number of the phase that `step` falls into, and the rates of heads and trunk there."""
    for number, phase in enumerate(phases):
        if step < phase.steps:
            return number, phase.rates(step)
        step -= phase.steps
    raise ValueError(f"there is no phase {step + 1} steps after the last one")


@dataclass(frozen=True)
class Recipe:
    """What decides a training's numbers: a checkpoint must agree in all of it."""

    phases: list
    batch_size: int
    seed: int  # of the order of pictures, and of what is changed in them
    weight_decay: float = 0.0
    optimizer: str = "adamw"  # or adam
    clip: float | None = None  # largest norm of the gradient (of energies in mm², mostly 40 to 140)
    ema: float | None = None  # decay of the weights' running average, which is validated and kept
    augment: float = 0.0  # strength of augmentation.augment at the end, reached linearly
    weights: dict | None = None  # of a Regression
    origin: str | None = None  # what else must agree, such as a digest of the files that are read


@dataclass(frozen=True)
class Keeping:
    """What is kept of a training, and how often."""

    log: Path | None = None  # CSV file
    log_every: int = 50  # steps
    validate_every: int | None = None  # steps; None: only at the end
    checkpoint: Path | None = None  # taken up where it exists
    checkpoint_every: int | None = None  # steps
    progress: bool = True  # show a bar with the time left


class Run:
    """The network under Fabric, the sums since the last row of the log, the rows so far.

    settings: what a checkpoint must agree in
    """

    validate = None  # or network -> dict of numbers, for the log

    def __init__(self, module, optimizer, fabric, settings, keeping):
        self.module, self.fabric, self.settings, self.keeping = module, fabric, settings, keeping
        self.average = copy.deepcopy(module) if settings["ema"] else module
        self.total = sum(phase["steps"] for phase in settings["phases"])
        self.network, self.optimizer = fabric.setup(module, optimizer)
        self.average.to(fabric.device)
        self.step, self.images, self.seconds, self.rows, self.sums = 0, 0, 0.0, [], {}
        if keeping.checkpoint and Path(keeping.checkpoint).exists():
            self.resume()

    def steps(self):
        """The steps still to be made, with a progress bar."""
        self.began, self.first = time.perf_counter(), self.step
        self.mark = self.began, self.images
        hidden = not (self.keeping.progress and self.fabric.is_global_zero)
        left = range(self.step, self.total)
        self.bar = tqdm(left, initial=self.step, total=self.total, unit="step", disable=hidden)
        return self.bar

    def record(self, step, phase, rates, parts, count):
        """Take note of a step; now and then validate, add a row to the log, write a checkpoint."""
        keeping, ended = self.keeping, step + 1 == self.total
        self.step, self.images = step + 1, self.images + count * self.fabric.world_size
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
        self.sums["steps"] = self.sums.get("steps", 0) + 1
        due = lambda every: bool(every) and self.step % every == 0
        validating = self.validate and (ended or due(keeping.validate_every))
        if validating or ended or due(keeping.log_every):
            where = dict(step=self.step, images=self.images, phase=phase)
            self._add_row(where | dict(heads_rate=rates[0], trunk_rate=rates[1]), validating)
        if keeping.checkpoint and due(keeping.checkpoint_every):
            self.sums = self._over_processes()  # another number of processes may go on
            if self.fabric.is_global_zero:
                self.save()

    def _over_processes(self):
        """The sums since the last row, over all processes."""
        mean = self.fabric.all_reduce if self.fabric.world_size > 1 else lambda x: x
        return {name: x if name == "steps" else mean(x) for name, x in self.sums.items()}

    def _add_row(self, row, validating):
        sums = self._over_processes()
        means = {name: float(x) / sums["steps"] for name, x in sums.items() if name != "steps"}
        now, (then, images) = time.perf_counter(), self.mark
        self.seconds += now - then
        rate = (self.images - images) / (now - then)
        row |= means | dict(images_per_s=rate, seconds=self.seconds)
        # The first process alone validates and writes; the others wait at their next step.
        if validating and self.fabric.is_global_zero:
            row |= self.validate(self.average.eval())
        self.sums, self.mark = {}, (time.perf_counter(), self.images)
        a_step = (self.mark[0] - self.began) / (self.step - self.first)
        self.rows.append(row | dict(remaining_s=a_step * (self.total - self.step)))
        shown = {name[:-1]: f"{x**0.5:.2f}" for name, x in means.items() if name.endswith("_mm2")}
        self.bar.set_postfix(shown | dict(images_per_s=f"{rate:.0f}"))
        if self.keeping.log and self.fabric.is_global_zero:
            with files.replacing(self.keeping.log) as partial:
                pd.DataFrame(self.rows).to_csv(partial, index=False)

    def save(self):
        """Write the checkpoint."""
        parts = ("module", "average", "optimizer")
        state = {name: getattr(self, name).state_dict() for name in parts}
        state |= dict(settings=self.settings, versions=VERSIONS)
        # Choice: not straight to the file: torch.save words a full disk by its own source's line.
        content = io.BytesIO()
        torch.save(state | {name: getattr(self, name) for name in PROGRESS}, content)
        with files.replacing(self.keeping.checkpoint) as partial:
            partial.write_bytes(content.getbuffer())

    def resume(self):
        """Take over the checkpoint. Raises OSError where it is damaged, ValueError where it belongs
        to a training with other settings."""
        path, again = self.keeping.checkpoint, "delete it to train from the start"
        # Choice: damage is caught as a whole, for a pickle of wrong contents fails in many ways.
        try:
            state = torch.load(path, map_location=self.fabric.device, weights_only=True)
            settings, versions = state["settings"], state["versions"]
            names = {**self.settings, **settings}
            changed = [n for n in names if settings.get(n) != self.settings.get(n)]
            if not changed:
                for name in ("module", "average", "optimizer"):
                    getattr(self, name).load_state_dict(state[name])
                vars(self).update({name: state[name] for name in PROGRESS})
        except Exception as error:
            reason = " ".join(str(error).split())[:100]
            raise OSError(f"{path} is truncated or no checkpoint ({reason}): {again}") from error
        if changed:
            raise ValueError(
                f"{path} belongs to a training with other {', '.join(changed)}: {again}"
            )
        if versions != VERSIONS:
            logging.getLogger(__name__).warning(
                "%s was written with %s; going on with %s, which may round differently",
                path,
                versions,
                VERSIONS,
            )
