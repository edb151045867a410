"""Training: one loop, the paper's two phases run through it, and what is measured.

`loop` is the training loop. `pretrain` runs it to recognise people, `fit` to regress coefficients; `evaluate` measures in mm. `e2far.jobs` runs several side by side.
"""

import copy
import functools
import io
import logging
import math
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from tqdm.auto import tqdm

import e2far
from e2far import augmentation, camera, data, files, losses
from e2far.evaluation import check_sizes, evaluate, predict, summary
from e2far.files import leaves, read_pickled
from e2far.morphable import landmarks_mm

logging.getLogger("lightning_fabric").setLevel(
    logging.WARNING
)  # it would announce its precision at every training
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
VERSIONS = dict(
    e2far=e2far.__version__,
    torch=str(torch.__version__),
    numpy=np.__version__,
    python=platform.python_version(),
)


@dataclass
class Phase:
    """A stretch of training. A trunk rate of 0 freezes the trunk: no gradient, no update, BatchNorm in eval mode.

    schedule: "cosine" (after `warmup` steps falls to 0 at the phase's end), "step" (the paper's: x0.1 at each of
        `milestones`, steps of this phase) or "constant" (after `warmup` steps: a training whose end is not known yet)
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
        if self.schedule == "constant":
            factor = 1.0
        elif self.schedule == "step":
            factor = 0.1 ** sum(step >= milestone for milestone in self.milestones)
        else:
            factor = 0.5 * (
                1
                + math.cos(math.pi * max(0, step - self.warmup) / max(1, self.steps - self.warmup))
            )
        factor *= min(1.0, (step + 1) / (self.warmup + 1))
        return factor * self.heads_rate, factor * self.trunk_rate


def loop(run, phases, batch_at, objective, clip=None, ema=None):
    """Train `run.module` through `phases`, from the step that `run` has reached.

    batch_at: step -> batch, a pure function, so that a resumed run sees what an uninterrupted one sees; each process of several gets its part
    objective: (network, batch) -> dict of scalars; "loss" is minimised, all are logged
    clip: largest norm of the gradient (of energies in mm², usually 40 to 140)
    ema: decay of the running average of the weights, which is what is validated and kept
    """
    module, network, optimizer = run.module, run.network, run.optimizer
    pairs = paired(run.average, module)
    for step in run.steps():
        phase, rates = rates_at(phases, step)
        for group, rate in zip(optimizer.param_groups, rates):  # heads, trunk
            group["lr"] = rate
        module.train()
        module.trunk.requires_grad_(rates[1] > 0).train(rates[1] > 0)

        batch = batch_at(step)
        parts = objective(network, batch)
        optimizer.zero_grad()
        run.fabric.backward(parts["loss"])
        norm = run.fabric.clip_gradients(
            module, optimizer, max_norm=clip or math.inf, error_if_nonfinite=False
        )
        if not (parts["loss"] + norm).isfinite():
            raise ValueError(
                f"training diverged at step {step}: loss {float(parts['loss'].detach()):.3g}, gradient norm {float(norm):.3g}; "
                "lower the learning rate, or clip"
            )
        optimizer.step()
        if ema:
            blend(pairs, min(ema, (step + 1) / (step + 10)))
        run.record(step, phase, rates, parts, len(batch["person"]))
    module.load_state_dict(run.average.state_dict())
    module.requires_grad_(True).eval()


def pretrain(
    recognizer,
    faces,
    *,
    steps,
    batch_size,
    learning_rate,
    seed,
    weight_decay=0.0,
    warmup=0,
    held_out=0.1,
    **options,
):
    """Train a Recognizer to tell the people of `faces` apart, in place; returns the log.

    A share `held_out` of the pictures is kept aside for the accuracy "top1".    options: as for `fit`, from `precision` on
    """
    people = faces.person.unique()
    if len(people) != recognizer.n_people:
        raise ValueError(
            f"{faces.folder} shows {len(people)} people, but the recogniser tells {recognizer.n_people} apart: make it with n_people={len(people)}"
        )
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(faces)))
    held, kept = order.split(
        (round(held_out * len(faces)), len(faces) - round(held_out * len(faces)))
    )

    def objective(network, batch):
        logits, person = (
            network(batch["image"]),
            torch.searchsorted(people.to(batch["person"].device), batch["person"]),
        )
        return dict(
            loss=F.cross_entropy(logits, person),
            train_top1=(logits.detach().argmax(1) == person).float().mean(),
        )

    def validate(network):
        guesses = predict(network, faces, rows=held).argmax(1)
        return dict(top1=float((people[guesses] == faces.person[held]).float().mean()))

    phases = [Phase(steps, learning_rate, learning_rate, warmup=warmup)]
    return _train(
        recognizer,
        faces,
        kept,
        phases,
        objective,
        validate if len(held) else None,
        batch_size=batch_size,
        seed=seed,
        weight_decay=weight_decay,
        **options,
    )


def fit(
    network,
    model,
    train,
    validation,
    *,
    phases,
    batch_size,
    expression_weight,
    pose_weight,
    weight_decay,
    seed,
    identity_weight=1.0,
    features=None,
    mirror=False,
    **options,
):
    r"""Train an E2FAR to regress the coefficients of `model`, in place; returns the log, a DataFrame. The paper's loss, with our pose term:

    $\frac1N \lVert U(\hat\alpha - \alpha) \rVert^2 + \lambda_e \frac1N \lVert W(\hat\beta - \beta) \rVert^2 + \lambda_p E_{pose}$, over the model's region

    identity_weight: of the first term; 0 leaves expression (and pose) as the only task
    train: data.Faces, or live.LiveFaces that are made as training goes    validation: data.Faces or None    phases: Phases, or dicts of their fields; the paper's are one with trunk_rate 0 and one without
    features: None, or what the frozen trunk answers for the first faces of `train` (`store_features`): heads then learn from these faces alone, many times faster than from pictures
    precision: "32-true" or "bf16-mixed"    fabric: a lightning Fabric, which then decides devices and precision; None is one CPU process
    optimizer: "adamw" or "adam" (with weight decay as an L2 term)    clip, ema: see `loop`
    mirror: show half of the pictures of each batch, other ones every time, as their mirror images, labels and all
    augment: strength of augmentation.augment at the end of training, reached linearly (False or 0: none, True or 1: full)
    log: CSV file, a row each `log_every` steps    validate_every: steps between validations (None: only at the end)
    checkpoint: file written each `checkpoint_every` steps; if it exists, training goes on from it exactly as if it had not stopped    origin: what else a checkpoint must agree in, such as a digest of the files that training reads
    progress: show a bar with the time left
    Raises ValueError when the loss is no longer finite, or sizes do not agree.
    """
    check_sizes(network, model, train)
    if mirror and features:
        raise ValueError(
            "stored features cannot be mirrored: give mirror False, or train on pictures"
        )
    device = options["fabric"].device if options.get("fabric") else "cpu"
    model = copy.deepcopy(model).float().to(device)
    identity_factor = losses.gram_factor(model.identity_basis[model.region])
    expression_factor = losses.gram_factor(model.expression_basis[model.region])

    def objective(network, batch):
        pred = network.heads(batch) if features else network(batch["image"])
        identity = losses.vertex_energy(pred["identity"], batch["identity"], identity_factor).mean()
        expression = losses.vertex_energy(
            pred["expression"], batch["expression"], expression_factor
        ).mean()
        pose = losses.pose_energy(
            pred["pose"], batch["pose"], landmarks_mm(model, batch["identity"], batch["expression"])
        ).mean()
        return dict(
            loss=identity_weight * identity + expression_weight * expression + pose_weight * pose,
            identity_mm2=identity,
            expression_mm2=expression,
            pose_percent2=pose,
        )

    def validate(network):
        return summary(evaluate(network, model, validation))

    weights = dict(
        identity_weight=identity_weight,
        expression_weight=expression_weight,
        pose_weight=pose_weight,
    )
    weights |= dict(mirror=True) if mirror else {}
    change = functools.partial(mirror_half, copy.deepcopy(model).cpu()) if mirror else None
    return _train(
        network,
        train,
        None,
        phases,
        objective,
        validate if validation else None,
        batch_size=batch_size,
        seed=seed,
        weight_decay=weight_decay,
        features=features,
        weights=weights,
        change=change,
        **options,
    )


def _train(
    module,
    faces,
    rows,
    phases,
    objective,
    validate,
    *,
    batch_size,
    seed,
    weight_decay,
    features=None,
    weights=None,
    change=None,
    precision="32-true",
    fabric=None,
    optimizer="adamw",
    clip=None,
    ema=None,
    augment=0.0,
    log=None,
    log_every=50,
    validate_every=None,
    checkpoint=None,
    checkpoint_every=None,
    origin=None,
    progress=True,
):
    """Set `loop` up on the faces `rows` (None: all) of `faces`; what `pretrain` and `fit` share."""
    if faces.image_size != module.image_size:
        raise ValueError(
            f"{faces.folder} holds images of {faces.image_size} px, but the network takes {module.image_size} px: make one of them anew"
        )
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer {optimizer!r}: choose one of {', '.join(OPTIMIZERS)}")
    fabric = fabric or Fabric(accelerator="cpu", devices=1, precision=auto_precision(precision))
    if batch_size % fabric.world_size:
        raise ValueError(
            f"batch_size {batch_size} does not divide among {fabric.world_size} processes: choose a multiple of it"
        )
    phases = [phase if isinstance(phase, Phase) else Phase(**phase) for phase in phases]
    if features and (augment or any(phase.trunk_rate for phase in phases)):
        raise ValueError(
            "stored features train heads alone: give every phase trunk_rate 0, and augment 0"
        )
    total, live = sum(phase.steps for phase in phases), hasattr(faces, "batch")
    rows = (
        rows
        if live or rows is not None
        else torch.arange(len(next(iter(features.values()))) if features else len(faces))
    )
    settings = dict(
        phases=[asdict(phase) for phase in phases],
        batch_size=batch_size,
        seed=seed,
        weight_decay=weight_decay,
        optimizer=optimizer,
        clip=clip,
        ema=ema,
        augment=float(augment),
        faces=faces.settings if live else len(rows),
        network=module.config,
        weights=weights,
        origin=origin,
    )
    module.to(memory_format=torch.channels_last)
    heads = [p for name, p in module.named_parameters() if not name.startswith("trunk.")]
    optimizer = OPTIMIZERS[optimizer](
        [dict(params=heads), dict(params=list(module.trunk.parameters()))],
        lr=0.0,
        weight_decay=weight_decay,
        fused=True,
    )
    run = Run(
        module,
        optimizer,
        fabric,
        total,
        copy.deepcopy(module) if ema else module,
        settings,
        validate,
        log,
        log_every,
        validate_every,
        checkpoint,
        checkpoint_every,
        progress,
    )
    if features:
        run.network.mark_forward_method("heads")

    def batch_at(step):
        if live:
            batch = faces.batch(step, batch_size)
        else:
            at = rows[batch_indices(len(rows), batch_size, step, seed)]
            if features:
                batch = {name: getattr(faces, name)[at] for name in data.LABELS} | {
                    layer: values[at].float() for layer, values in features.items()
                }
            else:
                batch = faces.gather(at)
        # Choice: pictures are changed before the batch is shared out among processes, so that their number changes nothing.
        if change:
            batch = change(batch, (seed, step, 1))
        if "image" in batch:
            batch["image"] = augmentation.augment(
                batch["image"], augment * step / total, (seed, step)
            )
        return fabric.to_device(
            {
                name: values[fabric.global_rank :: fabric.world_size]
                for name, values in batch.items()
            }
        )  # ty: ignore[missing-union-attribute]

    loop(
        run,
        phases,
        ahead(batch_at, run) if fabric.device.type == "cuda" else batch_at,
        objective,
        clip,
        ema,
    )
    return pd.DataFrame(run.rows)


def mirror_half(model, batch, seed):
    """`batch` (of `data.Faces.gather`) with about half of its pictures, and their identity, expression and pose, mirrored; its landmarks are left out."""
    turned = torch.from_numpy(np.random.default_rng(seed).random(len(batch["person"])) < 0.5)
    identity, expression = model.mirrored(batch["identity"], batch["expression"])
    other = dict(
        image=batch["image"].flip(-1),
        identity=identity,
        expression=expression,
        pose=camera.mirrored_pose(batch["pose"]),
    )
    here = {name: turned.view(-1, *[1] * (values.ndim - 1)) for name, values in other.items()}
    return dict(person=batch["person"]) | {
        name: torch.where(here[name], values, batch[name]) for name, values in other.items()
    }


def auto_precision(precision, device="cpu"):
    """ "32-true" or "bf16-mixed" for `precision` "auto": the latter where the device computes in bfloat16 (most GPUs; CPUs with AVX512-BF16 or AMX), elsewhere the former."""
    if precision != "auto":
        return precision
    fast = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device == "cuda"
        else torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return "bf16-mixed" if fast else "32-true"


def ahead(batch_at, run):
    """`batch_at` that prepares the next batch in a thread while a device is busy with this one."""
    pool, waiting = ThreadPoolExecutor(1), {}

    def batch(step):
        found = waiting.pop(step, None) or pool.submit(batch_at, step)
        if step + 1 < run.total:
            waiting[step + 1] = pool.submit(batch_at, step + 1)
        return found.result()

    return batch


class Run:
    """A training and its bookkeeping: the network under Fabric, the log, and a checkpoint to go on from."""

    def __init__(
        self,
        module,
        optimizer,
        fabric,
        total,
        average,
        settings,
        validate,
        log,
        log_every,
        validate_every,
        checkpoint,
        checkpoint_every,
        progress,
    ):
        self.module, self.fabric, self.total, self.average, self.settings, self.validate = (
            module,
            fabric,
            total,
            average,
            settings,
            validate,
        )
        self.log, self.log_every, self.validate_every = log, log_every, validate_every or total
        self.checkpoint, self.checkpoint_every, self.progress = (
            checkpoint,
            checkpoint_every or math.inf,
            progress,
        )
        self.network, self.optimizer = fabric.setup(module, optimizer)
        self.average.to(fabric.device)
        self.step, self.images, self.seconds, self.rows, self.sums = 0, 0, 0.0, [], {}
        if checkpoint and Path(checkpoint).exists():
            self.resume()

    def steps(self):
        """The steps still to be made, with a progress bar."""
        self.began, self.first = time.perf_counter(), self.step
        self.mark = self.began, self.images
        self.bar = tqdm(
            range(self.step, self.total),
            initial=self.step,
            total=self.total,
            unit="step",
            disable=not (self.progress and self.fabric.is_global_zero),
        )
        return self.bar

    def record(self, step, phase, rates, parts, count):
        """Take note of a step; now and then add a row to the log, validate, write a checkpoint."""
        self.step, self.images = step + 1, self.images + count * self.fabric.world_size
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
        self.sums["steps"] = self.sums.get("steps", 0) + 1
        validating = self.validate and (
            self.step % self.validate_every == 0 or self.step == self.total
        )
        if validating or self.step % self.log_every == 0 or self.step == self.total:
            n, means = self.sums.pop("steps"), {}
            for name, value in self.sums.items():
                means[name] = (
                    float(self.fabric.all_reduce(value) if self.fabric.world_size > 1 else value)
                    / n
                )
            now, (then, images) = time.perf_counter(), self.mark
            self.seconds += now - then
            rate = (self.images - images) / (now - then)
            row = (
                dict(
                    step=self.step,
                    images=self.images,
                    phase=phase,
                    heads_rate=rates[0],
                    trunk_rate=rates[1],
                )
                | means
                | dict(images_per_s=rate, seconds=self.seconds)
            )
            # The first process alone validates and writes; the others wait for it at their next step.
            if validating and self.fabric.is_global_zero:
                row |= self.validate(self.average.eval())
            self.sums, self.mark = {}, (time.perf_counter(), self.images)
            self.rows.append(
                row
                | dict(
                    remaining_s=(self.mark[0] - self.began)
                    / (self.step - self.first)
                    * (self.total - self.step)
                )
            )
            self.bar.set_postfix(
                {
                    k.replace("_mm2", "_mm"): f"{v**0.5:.2f}"
                    for k, v in means.items()
                    if k.endswith("_mm2")
                }
                | dict(images_per_s=f"{rate:.0f}")
            )
            if self.log and self.fabric.is_global_zero:
                with files.replacing(self.log) as partial:
                    pd.DataFrame(self.rows).to_csv(partial, index=False)
        if self.checkpoint and self.step % self.checkpoint_every == 0:
            if self.fabric.world_size > 1:
                self.sums = {
                    name: value if name == "steps" else self.fabric.all_reduce(value)
                    for name, value in self.sums.items()
                }  # another number of processes may go on
            if self.fabric.is_global_zero:
                self.save()

    def save(self):
        with files.replacing(self.checkpoint) as partial:
            content = io.BytesIO()  # Choice: not straight to the file: where the disk is full torch.save tells of its own source, not of the disk.
            torch.save(
                dict(
                    module=self.module.state_dict(),
                    average=self.average.state_dict(),
                    optimizer=self.optimizer.state_dict(),
                    settings=self.settings,
                    versions=VERSIONS,
                    **{
                        name: getattr(self, name)
                        for name in ("step", "images", "seconds", "rows", "sums")
                    },
                ),
                content,
            )
            partial.write_bytes(content.getbuffer())

    def resume(self):
        # Choice: damage is caught as a whole, since a pickle of wrong contents fails in too many ways to list.
        try:
            state = read_pickled(self.checkpoint, self.fabric.device)
            settings, versions = state["settings"], state["versions"]
            changed = [
                name
                for name in {**self.settings, **settings}
                if settings.get(name) != self.settings.get(name)
            ]
        except Exception as error:
            raise OSError(
                f"{self.checkpoint} is truncated or no checkpoint ({' '.join(str(error).split())[:100]}): delete it to train from the start"
            ) from error
        if changed:
            raise ValueError(
                f"{self.checkpoint} belongs to a training with other {' '.join(', '.join(map(str, changed)).split())[:300]}: delete it to train from the start"
            )
        if versions != VERSIONS:
            logging.getLogger(__name__).warning(
                "%s was written with %s; going on with %s, which may round differently",
                self.checkpoint,
                str(versions)[:300],
                VERSIONS,
            )
        try:
            self._restore(state)
        except Exception as error:
            raise OSError(
                f"{self.checkpoint} is damaged ({' '.join(str(error).split())[:300]}): delete it to train from the start"
            ) from error

    def _restore(self, state):
        """Take over a checkpoint's `state`; raises where it is not that of such a run, or not finite."""
        hyper = lambda: [
            {name: value for name, value in group.items() if name != "lr"}
            for group in self.optimizer.state_dict()["param_groups"]
        ]
        mine = hyper()
        for name in ("module", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        if hyper() != mine or any(
            value.shape not in (parameter.shape, ())
            for parameter, kept in self.optimizer.optimizer.state.items()
            for value in kept.values()
        ):
            raise ValueError("another optimizer's")
        for name, kind in dict(step=int, images=int, seconds=float, rows=list, sums=dict).items():
            if type(state[name]) is not kind:
                raise ValueError(f"{name} is a {type(state[name]).__name__}")
            setattr(self, name, state[name])
        if (
            not 0 <= self.step <= self.total
            or self.images < 0
            or not all(isinstance(row, dict) for row in self.rows)
        ):
            raise ValueError(f"step {self.step} of {self.total}")
        if not all(
            math.isfinite(value) if isinstance(value, float) else value.isfinite().all()
            for value in leaves(state)
            if isinstance(value, (float, torch.Tensor))
        ):
            raise ValueError("numbers that are not finite")


def rates_at(phases, step):
    """Number of the phase that `step` falls into, and the learning rates of heads and trunk there."""
    for number, phase in enumerate(phases):
        if step < phase.steps:
            return number, phase.rates(step)
        step -= phase.steps
    raise ValueError(f"there is no phase {step + 1} steps after the last one")


def batch_indices(n, batch_size, step, seed):
    """Which of `n` faces form the batch of `step`: each epoch is a new permutation of all, and `seed` and `step` alone decide."""
    batch_size = min(batch_size, n)
    epoch, place = divmod(step, n // batch_size)
    return _permutation(n, seed, epoch)[place * batch_size : (place + 1) * batch_size]


@functools.lru_cache(maxsize=2)
def _permutation(n, seed, epoch):
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(n))


@torch.no_grad()
def blend(pairs, decay):
    """Move an average, weights and BatchNorm's statistics, towards a module: a <- decay a + (1 - decay) m. pairs: of `paired`"""
    floats, others = pairs
    torch._foreach_lerp_(*floats, 1 - decay)
    for a, m in others:
        a.copy_(m)


def paired(average, module):
    """Tensors of both modules that are numbers, as two lists, and the pairs of those that count; found once, since that takes longer than blending them."""
    pairs = list(zip(average.state_dict().values(), module.state_dict().values()))
    return [list(part) for part in zip(*((a, m) for a, m in pairs if a.is_floating_point()))], [
        (a, m) for a, m in pairs if not a.is_floating_point()
    ]
