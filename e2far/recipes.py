"""How a network is trained, in numbers: phases, rates, weights of the loss."""

import math
from dataclasses import dataclass, fields

import torch

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass
class Phase:
    """A stretch of training. A trunk rate of 0 freezes the trunk, its BatchNorm in eval mode.

    schedule: "cosine" (after `warmup` steps falls to 0 at the phase's end), "step" (the paper's:
        a tenth at each of `milestones`, steps of this phase) or "constant" (after `warmup` steps)
    """

    steps: int
    heads_rate: float
    trunk_rate: float = 0.0
    schedule: str = "cosine"
    warmup: int = 0
    milestones: tuple = ()

    def __post_init__(self):
        if self.schedule not in ("cosine", "step", "constant"):
            raise ValueError(f"schedule {self.schedule!r}: choose cosine, step or constant")

    def rates(self, step):
        """Learning rates of heads and trunk at `step` of this phase."""
        factor = 1.0
        if self.schedule == "step":
            factor = 0.1 ** sum(step >= milestone for milestone in self.milestones)
        elif self.schedule == "cosine":
            part = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
            factor = 0.5 * (1 + math.cos(math.pi * part))
        factor *= min(1.0, (step + 1) / (self.warmup + 1))
        return factor * self.heads_rate, factor * self.trunk_rate


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, whatever it learns."""

    phases: list  # of Phase, or dicts of its fields
    batch_size: int  # of all processes together
    seed: int  # of the order of pictures and their changes
    weight_decay: float = 0.0  # with "adam" an L2 term
    optimizer: str = "adamw"  # or "adam"
    clip: float | None = None  # largest norm of the gradient (in mm², usually 40 to 140)
    ema: float | None = None  # decay of the weights' running average, which is what is kept
    augment: float = 0.0  # strength of augmentation at the end, reached linearly
    precision: str = "32-true"  # or "bf16-mixed", or "auto"

    def __post_init__(self):
        if self.optimizer not in OPTIMIZERS:
            names = ", ".join(OPTIMIZERS)
            raise ValueError(f"optimizer {self.optimizer!r}: choose one of {names}")
        phases = [one if isinstance(one, Phase) else Phase(**one) for one in self.phases]
        object.__setattr__(self, "phases", phases)

    @property
    def steps(self):
        return sum(phase.steps for phase in self.phases)


@dataclass(frozen=True)
class Weights:
    """Weights of the loss's terms, in mm² and, for the pose, percent² of the crop's side."""

    expression_weight: float
    pose_weight: float
    identity_weight: float = 1.0


def rates_at(phases, step):
    """Number of the phase that `step` falls into, and the rates of heads and trunk there."""
    for number, phase in enumerate(phases):
        if step < phase.steps:
            return number, phase.rates(step)
        step -= phase.steps
    raise ValueError(f"there is no phase {step + 1} steps after the last one")


def auto_precision(precision, device="cpu"):
    """The precision that "auto" stands for: "bf16-mixed" where the device computes in bfloat16.

    That is most GPUs, and CPUs with AVX512-BF16 or AMX. Elsewhere it is "32-true".
    """
    if precision != "auto":
        return precision
    if device == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"


def divide(settings, *kinds):
    """An instance of each of the dataclasses `kinds`, of those `settings` that are its fields."""
    names = [{field.name for field in fields(kind)} for kind in kinds]
    unknown = settings.keys() - set().union(*names)
    if unknown:
        raise TypeError(f"unknown settings: {', '.join(sorted(unknown))}")
    return [
        kind(**{k: settings[k] for k in settings.keys() & own}) for kind, own in zip(kinds, names)
    ]
