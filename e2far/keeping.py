"""Recipe and Phase, what a training is told; Run, what is kept of it: a log, a checkpoint."""

import copy
import io
import logging
import math
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

import e2far
from e2far import files

with files.extra("study"):
    import pandas as pd

VERSIONS = dict(e2far=e2far.__version__, torch=str(torch.__version__), numpy=np.__version__)
VERSIONS["python"] = platform.python_version()
# Attributes of a Run in a checkpoint: those with a state_dict, and the others
STATES, PROGRESS = ("module", "average", "optimizer"), ("step", "images", "seconds", "rows", "sums")
# Fields of a Recipe that change no number: from a checkpoint one may go on with others.
FREE = ("log", "log_every", "validate_every", "checkpoint", "checkpoint_every", "progress")


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
        factor = min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "step":
            factor *= 0.1 ** sum(step >= milestone for milestone in self.milestones)
        if self.schedule == "cosine":
            done = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
            factor *= 0.5 * (1 + math.cos(math.pi * done))
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
    """What a training is told."""

    phases: list  # of Phase, or of dicts of its fields
    batch_size: int
    seed: int  # of the order of pictures, and of what is changed in them
    weight_decay: float = 0.0
    optimizer: str = "adamw"  # or adam
    clip: float | None = None  # largest norm of the gradient (of energies in mm², mostly 40 to 140)
    ema: float | None = None  # decay of the weights' running average, which is validated and kept
    augment: float = 0.0  # strength of augmentation.augment at the end, reached linearly
    origin: str | None = None  # what else must agree, such as a digest of the files that are read
    # Of a regression: weights of the loss's terms; an identity_weight of 0 leaves the others alone
    expression_weight: float | None = None
    pose_weight: float | None = None
    identity_weight: float = 1.0
    mirror: bool = False  # show half of each batch, other pictures every time, as mirror images
    # What is kept, and how often: FREE
    log: Path | None = None  # CSV file
    log_every: int = 50  # steps
    validate_every: int | None = None  # steps; None: only at the end
    checkpoint: Path | None = None  # taken up where it exists
    checkpoint_every: int | None = None  # steps
    progress: bool = True  # show a bar with the time left

    def __post_init__(self):
        made = [phase if isinstance(phase, Phase) else Phase(**phase) for phase in self.phases]
        object.__setattr__(self, "phases", made)

    def settings(self):
        """What decides the numbers, all but FREE: a checkpoint must agree in it."""
        # A switch that is off is left out: older checkpoints may not know it.
        told = {name: x for name, x in asdict(self).items() if name not in FREE and x is not False}
        terms = [name for name in told if name.endswith("_weight") or name == "mirror"]
        weights = {name: told.pop(name) for name in terms}
        regression = self.pose_weight is not None  # a recogniser's loss has no terms
        return told | dict(weights=weights if regression else None)


class Run:
    """The network under Fabric, the sums since the last row of the log, the rows so far.

    settings: what a checkpoint must agree in
    """

    validate = None  # or network -> dict of numbers, for the log

    def __init__(self, module, optimizer, fabric, recipe, settings):
        self.module, self.fabric, self.recipe, self.settings = module, fabric, recipe, settings
        self.average = copy.deepcopy(module) if recipe.ema else module
        self.total = sum(phase.steps for phase in recipe.phases)
        self.network, self.optimizer = fabric.setup(module, optimizer)
        self.average.to(fabric.device)
        self.step, self.images, self.seconds, self.rows, self.sums = 0, 0, 0.0, [], {}
        if recipe.checkpoint and Path(recipe.checkpoint).exists():
            self.resume()

    def steps(self):
        """The steps still to be made, with a progress bar."""
        self.began, self.first = time.perf_counter(), self.step
        self.mark = self.began, self.images
        hidden = not (self.recipe.progress and self.fabric.is_global_zero)
        left = range(self.step, self.total)
        self.bar = tqdm(left, initial=self.step, total=self.total, unit="step", disable=hidden)
        return self.bar

    def record(self, step, phase, rates, parts, count):
        """Take note of a step; now and then validate, add a row to the log, write a checkpoint."""
        recipe, ended = self.recipe, step + 1 == self.total
        self.step, self.images = step + 1, self.images + count * self.fabric.world_size
        for name, value in (parts | dict(steps=torch.ones(()))).items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        due = lambda every: bool(every) and self.step % every == 0
        validating = self.validate and (ended or due(recipe.validate_every))
        if validating or ended or due(recipe.log_every):
            where = dict(step=self.step, images=self.images, phase=phase)
            self._add_row(where | dict(heads_rate=rates[0], trunk_rate=rates[1]), validating)
        if recipe.checkpoint and due(recipe.checkpoint_every):
            self.sums = self.fabric.all_reduce(self.sums)  # another number of processes may go on
            if self.fabric.is_global_zero:
                self.save()

    def _add_row(self, row, validating):
        sums, main = self.fabric.all_reduce(self.sums), self.fabric.is_global_zero
        steps = float(sums.pop("steps"))
        means = {name: float(x) / steps for name, x in sums.items()}
        now, (then, images) = time.perf_counter(), self.mark
        self.seconds += now - then
        rate = (self.images - images) / (now - then)
        row |= means | dict(images_per_s=rate, seconds=self.seconds)
        # The first process alone validates and writes; the others wait at their next step.
        if validating and main:
            row |= self.validate(self.average.eval())  # ty: ignore[not-callable]
        self.sums, self.mark = {}, (time.perf_counter(), self.images)
        a_step = (self.mark[0] - self.began) / (self.step - self.first)
        self.rows.append(row | dict(remaining_s=a_step * (self.total - self.step)))
        shown = {name[:-1]: f"{x**0.5:.2f}" for name, x in means.items() if name.endswith("_mm2")}
        self.bar.set_postfix(shown | dict(images_per_s=f"{rate:.0f}"))
        if self.recipe.log and main:
            with files.replacing(self.recipe.log) as partial:
                pd.DataFrame(self.rows).to_csv(partial, index=False)

    def save(self):
        """Write the checkpoint."""
        state = {name: getattr(self, name).state_dict() for name in STATES}
        state |= {name: getattr(self, name) for name in PROGRESS}
        # Choice: not straight to the file: torch.save words a full disk by its own source's line.
        content = io.BytesIO()
        torch.save(state | dict(settings=self.settings, versions=VERSIONS), content)
        with files.replacing(self.recipe.checkpoint) as partial:
            partial.write_bytes(content.getbuffer())

    def resume(self):
        """Take over the checkpoint; ValueError where it is damaged, or of other settings."""
        path, mine = self.recipe.checkpoint, self.settings
        what = "a checkpoint of this training: delete it to train from the start"
        with files.reading(path, what):
            state = torch.load(path, map_location=self.fabric.device, weights_only=True)
            found = state["settings"]
            changed = [n for n in {**mine, **found} if found.get(n) != mine.get(n)]
            if changed:
                raise ValueError(f"it belongs to a training with other {', '.join(changed)}")
            for name in STATES:
                getattr(self, name).load_state_dict(state[name])
            vars(self).update({name: state[name] for name in PROGRESS})
        if state["versions"] != VERSIONS:
            text = f"{path} was written with {state['versions']}; going on with {VERSIONS}, which"
            logging.getLogger(__name__).warning("%s may round differently", text)
