"""Training: one loop, and the paper's two phases run through it.

`loop` is the training loop. `fit` runs it to regress coefficients, `pretrain` to recognise people.
"""

import copy
import functools
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric

from e2far import augmentation, data, losses
from e2far.evaluation import check_sizes, evaluate, predict, summary
from e2far.morphable import landmarks_mm
from e2far.recipes import OPTIMIZERS, Phase, Recipe, Weights, auto_precision, divide, rates_at
from e2far.runs import Keeper, Run

# It would announce its precision at every training.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Task:
    """What is learned from the faces."""

    objective: Callable  # (network, batch) -> dict of scalars; "loss" is minimised, all are logged
    validate: Callable | None = None  # network -> dict of numbers for the log
    change: Callable | None = None  # (batch, seed) -> batch
    features: dict | None = None  # layer -> what the frozen trunk answers, in place of pictures
    settings: dict | None = None  # what a checkpoint must agree in


def loop(run, phases, batch_at, objective, clip=None, ema=None):
    """Train `run.module` through `phases`, from the step that `run` has reached.

    batch_at: step -> batch, a pure function, so that a resumed run sees what an uninterrupted one
        sees; each process of several gets its part    objective, clip, ema: see Task, Recipe
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
                f"training diverged at step {step}: loss {float(parts['loss'].detach()):.3g}, "
                f"gradient norm {float(norm):.3g}; lower the learning rate, or clip"
            )
        optimizer.step()
        if ema:
            blend(pairs, min(ema, (step + 1) / (step + 10)))
        run.record(step, phase, rates, parts, len(batch["person"]))
    module.load_state_dict(run.average.state_dict())
    module.requires_grad_(True).eval()


def fit(network, model, train, validation, *, features=None, mirror=False, fabric=None, **settings):
    r"""Train an E2FAR to regress the coefficients of `model`, in place; returns the log.

    The paper's loss over the model's region, with our pose term:
    $\frac1N \lVert U(\hat\alpha - \alpha) \rVert^2 +
     \lambda_e \frac1N \lVert W(\hat\beta - \beta) \rVert^2 + \lambda_p E_{pose}$

    train, validation: data.Faces (or None); train may be live.LiveFaces, made as training goes
    features: None, or what the frozen trunk answers for the first faces of `train`
        (`store_features`): heads then learn from these faces alone, many times faster
    mirror: show half of each batch, others every time, as mirror images, labels and all
    fabric: a lightning Fabric, which then decides devices and precision; None: one CPU process
    settings: fields of Weights, Recipe and runs.Keeper
    Raises ValueError when the loss is no longer finite, or sizes do not agree.
    """
    check_sizes(network, model, train)
    if mirror and features:
        raise ValueError("stored features cannot be mirrored: give mirror False, or pictures")
    weights, recipe, keeper = divide(settings, Weights, Recipe, Keeper)
    model = copy.deepcopy(model).float().to(fabric.device if fabric else "cpu")
    task = Task(
        coefficient_objective(model, weights, features),
        (lambda network: summary(evaluate(network, model, validation))) if validation else None,
        functools.partial(augmentation.mirror_half, copy.deepcopy(model).cpu()) if mirror else None,
        features,
        asdict(weights) | (dict(mirror=True) if mirror else {}),
    )
    return train_on(network, train, None, task, recipe, keeper, fabric)


def coefficient_objective(model, weights, features):
    """The paper's multi-task loss as the objective of a Task."""
    U = losses.gram_factor(model.identity_basis[model.region])
    W = losses.gram_factor(model.expression_basis[model.region])

    def objective(network, batch):
        pred = network.heads(batch) if features else network(batch["image"])
        points = landmarks_mm(model, batch["identity"], batch["expression"])
        identity = losses.vertex_energy(pred["identity"], batch["identity"], U).mean()
        expression = losses.vertex_energy(pred["expression"], batch["expression"], W).mean()
        pose = losses.pose_energy(pred["pose"], batch["pose"], points).mean()
        loss = (
            weights.identity_weight * identity
            + weights.expression_weight * expression
            + weights.pose_weight * pose
        )
        return dict(loss=loss, identity_mm2=identity, expression_mm2=expression, pose_percent2=pose)

    return objective


def pretrain(
    recognizer, faces, *, steps, learning_rate, warmup=0, held_out=0.1, fabric=None, **settings
):
    """Train a Recognizer to tell the people of `faces` apart, in place; returns the log.

    A share `held_out` of the pictures is kept aside for the accuracy "top1". settings: as for `fit`
    """
    people = faces.person.unique()
    if len(people) != recognizer.n_people:
        raise ValueError(
            f"{faces.folder} shows {len(people)} people, but the recogniser tells "
            f"{recognizer.n_people} apart: make it with n_people={len(people)}"
        )
    phases = [Phase(steps, learning_rate, learning_rate, warmup=warmup)]
    recipe, keeper = divide(settings | dict(phases=phases), Recipe, Keeper)
    order = torch.from_numpy(np.random.default_rng(recipe.seed).permutation(len(faces)))
    held, kept = order.tensor_split([round(held_out * len(faces))])

    def objective(network, batch):
        logits = network(batch["image"])
        person = torch.searchsorted(people.to(batch["person"].device), batch["person"])
        right = (logits.detach().argmax(1) == person).float()
        return dict(loss=F.cross_entropy(logits, person), train_top1=right.mean())

    def validate(network):
        guesses = people[predict(network, faces, rows=held).argmax(1)]
        return dict(top1=float((guesses == faces.person[held]).float().mean()))

    task = Task(objective, validate if len(held) else None)
    return train_on(recognizer, faces, kept, task, recipe, keeper, fabric)


def train_on(module, faces, rows, task, recipe, keeper, fabric=None):
    """Run `loop` on the faces `rows` (None: all) of `faces`; what `fit` and `pretrain` share."""
    precision = auto_precision(recipe.precision)
    fabric = fabric or Fabric(accelerator="cpu", devices=1, precision=precision)
    check_recipe(recipe, module, faces, task, fabric)
    live, total = hasattr(faces, "batch"), recipe.steps
    if rows is None and not live:
        known = next(iter(task.features.values())) if task.features else faces
        rows = torch.arange(len(known))
    settings = asdict(recipe) | dict(
        augment=float(recipe.augment),
        faces=faces.settings if live else len(rows),
        network=module.config,
        weights=task.settings,
        origin=keeper.origin,
    )
    del settings["precision"]  # another machine may go on with another one
    module.to(memory_format=torch.channels_last)
    heads = [p for name, p in module.named_parameters() if not name.startswith("trunk.")]
    groups = [dict(params=heads), dict(params=list(module.trunk.parameters()))]
    optimizer = OPTIMIZERS[recipe.optimizer](
        groups, lr=0.0, weight_decay=recipe.weight_decay, fused=True
    )
    run = Run(module, optimizer, fabric, total, settings, task.validate, keeper)
    if task.features:
        run.network.mark_forward_method("heads")

    def batch_at(step):
        if live:
            batch = faces.batch(step, recipe.batch_size)
        else:
            at = rows[data.batch_indices(len(rows), recipe.batch_size, step, recipe.seed)]
            batch = faces.gather(at) if not task.features else stored(faces, task.features, at)
        # Choice: pictures are changed before the batch is shared out among processes, so that
        # their number changes nothing.
        if task.change:
            batch = task.change(batch, (recipe.seed, step, 1))
        if "image" in batch:
            strength = recipe.augment * step / total
            batch["image"] = augmentation.augment(batch["image"], strength, (recipe.seed, step))
        mine = slice(fabric.global_rank, None, fabric.world_size)
        return fabric.to_device({name: values[mine] for name, values in batch.items()})

    source = prepared_ahead(batch_at, total) if fabric.device.type == "cuda" else batch_at
    loop(run, recipe.phases, source, task.objective, recipe.clip, recipe.ema)
    return pd.DataFrame(run.rows)


def check_recipe(recipe, module, faces, task, fabric):
    """Raise ValueError where a recipe does not go with what is trained on what."""
    if faces.image_size != module.image_size:
        raise ValueError(
            f"{faces.folder} holds images of {faces.image_size} px, but the network takes "
            f"{module.image_size} px: make one of them anew"
        )
    if recipe.batch_size % fabric.world_size:
        raise ValueError(
            f"batch_size {recipe.batch_size} does not divide among {fabric.world_size} processes: "
            "choose a multiple of it"
        )
    if task.features and (recipe.augment or any(phase.trunk_rate for phase in recipe.phases)):
        raise ValueError(
            "stored features train heads alone: give every phase trunk_rate 0, and augment 0"
        )


def stored(faces, features, rows):
    """The batch `rows` of `faces` with `features` of the trunk in place of pictures."""
    labels = {name: getattr(faces, name)[rows] for name in data.LABELS}
    return labels | {layer: values[rows].float() for layer, values in features.items()}


def prepared_ahead(batch_at, total):
    """`batch_at` that prepares the next batch in a thread while a device is busy with this one."""
    pool, waiting = ThreadPoolExecutor(1), {}

    def batch(step):
        found = waiting.pop(step, None) or pool.submit(batch_at, step)
        if step + 1 < total:
            waiting[step + 1] = pool.submit(batch_at, step + 1)
        return found.result()

    return batch


@torch.no_grad()
def blend(pairs, decay):
    """Move an average towards a module: a <- decay a + (1 - decay) m. pairs: of `paired`"""
    floats, others = pairs
    torch._foreach_lerp_(*floats, 1 - decay)
    for a, m in others:
        a.copy_(m)


def paired(average, module):
    """Tensors of both modules that are fractions, as two lists, and the pairs of those that count.

    Found once, since that takes longer than blending them.
    """
    pairs = list(zip(average.state_dict().values(), module.state_dict().values()))
    floats = [(a, m) for a, m in pairs if a.is_floating_point()]
    return [list(part) for part in zip(*floats)], [
        (a, m) for a, m in pairs if not a.is_floating_point()
    ]
