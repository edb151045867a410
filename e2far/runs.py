"""The bookkeeping of a training: its log, its validations, and a checkpoint to go on from."""

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
KEPT = ("step", "images", "seconds", "rows", "sums")  # of a Run, in its checkpoint
ANEW = "delete it to train from the start"


@dataclass(frozen=True)
class Keeper:
    """What a training leaves on disk, and when."""

    log: str | Path | None = None  # CSV file
    log_every: int = 50  # steps from row to row
    validate_every: int | None = None  # steps; None: only at the end
    checkpoint: str | Path | None = None  # if it exists, training goes on from it
    checkpoint_every: int | None = None  # steps; None: never
    origin: object = None  # what else a checkpoint must agree in, such as a digest of files read
    progress: bool = True  # show a bar with the time left


class Run:
    """A training under way: network and optimizer under Fabric, where it is, and what it wrote.

    A run with a checkpoint goes on exactly as if it had not stopped. average: a copy of the module
    where the settings have `ema`, else the module itself
    """

    def __init__(self, module, optimizer, fabric, total, settings, validate, keeper):
        self.module, self.fabric, self.total, self.settings = module, fabric, total, settings
        self.validate, self.keeper = validate, keeper
        self.average = copy.deepcopy(module) if settings.get("ema") else module
        self.network, self.optimizer = fabric.setup(module, optimizer)
        self.average.to(fabric.device)
        self.step, self.images, self.seconds, self.rows, self.sums = 0, 0, 0.0, [], {}
        if keeper.checkpoint and Path(keeper.checkpoint).exists():
            self.resume()

    def steps(self):
        """The steps still to be made, with a progress bar."""
        self.began, self.first = time.perf_counter(), self.step
        self.mark = self.began, self.images
        hidden = not (self.keeper.progress and self.fabric.is_global_zero)
        left = range(self.step, self.total)
        self.bar = tqdm(left, initial=self.step, total=self.total, unit="step", disable=hidden)
        return self.bar

    def record(self, step, phase, rates, parts, count):
        """Take note of a step; now and then add a row to the log, validate, write a checkpoint."""
        self.step, self.images = step + 1, self.images + count * self.fabric.world_size
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
        self.sums["steps"] = self.sums.get("steps", 0) + 1
        last = self.step == self.total
        due = last or self.step % (self.keeper.validate_every or self.total) == 0
        if due and self.validate or last or self.step % self.keeper.log_every == 0:
            where = dict(phase=phase, heads_rate=rates[0], trunk_rate=rates[1])
            self.add_row(where, validating=due and self.validate)
        if self.keeper.checkpoint and self.step % (self.keeper.checkpoint_every or math.inf) == 0:
            self.sums = self.shared(self.sums)  # another number of processes may go on
            if self.fabric.is_global_zero:
                self.save()

    def shared(self, sums):
        """`sums` as means over the processes."""
        if self.fabric.world_size == 1:
            return sums
        steps = dict(steps=sums["steps"]) if "steps" in sums else {}
        values = {name: value for name, value in sums.items() if name != "steps"}
        return {name: self.fabric.all_reduce(value) for name, value in values.items()} | steps

    def add_row(self, where, validating):
        """A row of the log: means since the last one, speed, and what validation says."""
        sums = self.shared(self.sums)
        count = sums.pop("steps")
        means = {name: float(value) / count for name, value in sums.items()}
        now, (then, images) = time.perf_counter(), self.mark
        self.seconds += now - then
        speed = (self.images - images) / (now - then)
        row = dict(step=self.step, images=self.images) | where | means
        row |= dict(images_per_s=speed, seconds=self.seconds)
        # The first process alone validates and writes; the others wait for it at their next step.
        if validating and self.fabric.is_global_zero:
            row |= self.validate(self.average.eval())
        self.sums, self.mark = {}, (time.perf_counter(), self.images)
        a_step = (self.mark[0] - self.began) / (self.step - self.first)
        self.rows.append(row | dict(remaining_s=a_step * (self.total - self.step)))
        energies = {k: v for k, v in means.items() if k.endswith("_mm2")}
        shown = {k.replace("_mm2", "_mm"): f"{v**0.5:.2f}" for k, v in energies.items()}
        self.bar.set_postfix(shown | dict(images_per_s=f"{speed:.0f}"))
        if self.keeper.log and self.fabric.is_global_zero:
            with files.replacing(self.keeper.log) as partial:
                pd.DataFrame(self.rows).to_csv(partial, index=False)

    def save(self):
        """Write the checkpoint."""
        # Choice: not straight to the file: where the disk is full torch.save tells of its own
        # source, not of the disk.
        content = io.BytesIO()
        parts = {name: getattr(self, name) for name in ("module", "average", "optimizer")}
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= dict(settings=self.settings, versions=VERSIONS)
        torch.save(state | {name: getattr(self, name) for name in KEPT}, content)
        with files.replacing(self.keeper.checkpoint) as partial:
            partial.write_bytes(content.getbuffer())

    def resume(self):
        """Go on from the checkpoint; OSError if it is damaged, ValueError if not this run's."""
        path = self.keeper.checkpoint
        try:
            state = torch.load(path, map_location=self.fabric.device, weights_only=True)
            theirs = state["settings"]
            names = {**self.settings, **theirs}
        except Exception as error:  # a damaged pickle fails in too many ways to list
            reason = " ".join(str(error).split())[:100]
            raise OSError(f"{path} is truncated or no checkpoint ({reason}): {ANEW}") from error
        changed = [name for name in names if theirs.get(name) != self.settings.get(name)]
        if changed:
            other = ", ".join(changed)
            raise ValueError(f"{path} belongs to a training with other {other}: {ANEW}")
        if state["versions"] != VERSIONS:
            logging.getLogger(__name__).warning(
                "%s was written with %s; going on with %s, which may round differently",
                path,
                state["versions"],
                VERSIONS,
            )
        try:
            for name in ("module", "average", "optimizer"):
                getattr(self, name).load_state_dict(state[name])
            for name in KEPT:
                setattr(self, name, state[name])
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise OSError(f"{path} is damaged ({reason}): {ANEW}") from error
