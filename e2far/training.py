"""Training: one loop, and what runs through it.

`pretrain` trains a recogniser of people, `fit` regresses coefficients in the paper's two phases;
`keeping.Run` keeps the log and the checkpoint; `evaluation` measures in mm.
"""

import copy
import logging
import math

import numpy as np
import torch
import torch.nn.functional as F

from e2far import augmentation, data, losses
from e2far.evaluation import check_sizes, evaluate, predict, summary
from e2far.files import extra
from e2far.keeping import Phase, Recipe, Run, rates_at
from e2far.morphable import landmarks_mm

with extra("study"):
    import pandas as pd
    from lightning_fabric import Fabric

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would announce its precision
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}  # adam: decay as an L2 term


def loop(run, phases, batch_at, objective, clip=None, ema=None):
    """Train `run.module` through `phases`, from the step that `run` has reached.

    batch_at: step -> batch, a pure function, so that a resumed run sees what any other sees
    objective: (network, batch) -> dict of scalars; "loss" is minimised, all are logged
    clip, ema: as of `Recipe`
    """
    module, optimizer = run.module, run.optimizer
    for step in run.steps():
        phase, rates = rates_at(phases, step)
        for group, rate in zip(optimizer.param_groups, rates):  # heads, trunk
            group["lr"] = rate
        module.train()
        module.trunk.requires_grad_(rates[1] > 0).train(rates[1] > 0)

        batch = batch_at(step)
        parts = objective(run.network, batch)
        optimizer.zero_grad()
        run.fabric.backward(parts["loss"])
        norm = run.fabric.clip_gradients(
            module, optimizer, max_norm=clip or math.inf, error_if_nonfinite=False
        )
        if not (parts["loss"] + norm).isfinite():
            raise ValueError(
                f"training diverged at step {step}: loss {parts['loss'].item():.3g}, gradient norm "
                f"{float(norm):.3g}; lower the learning rate, or clip"
            )
        optimizer.step()
        if ema:
            blend(run.average, module, min(ema, (step + 1) / (step + 10)))
        run.record(step, phase, rates, parts, len(batch["person"]))
    module.load_state_dict(run.average.state_dict())
    module.requires_grad_(True).eval()


def pretrain(recognizer, faces, *, steps, learning_rate, warmup=0, held_out=0.1, **options):
    """Train a Recognizer to tell the people of `faces` apart, in place; returns the log.

    held_out: share of the pictures that is kept aside for the accuracy "top1"
    options: as of `fit`, but for features and the terms of the loss
    """
    people, n = faces.person.unique(), len(faces)
    if len(people) != recognizer.n_people:
        raise ValueError(
            f"{faces.folder} shows {len(people)} people, but the recogniser tells "
            f"{recognizer.n_people} apart: make it with n_people={len(people)}"
        )
    fabric = _fabric(options)
    phase = Phase(steps, learning_rate, learning_rate, warmup=warmup)
    recipe = Recipe(phases=[phase], **options)
    order = torch.from_numpy(np.random.default_rng(recipe.seed).permutation(n))
    held, kept = order.split((round(held_out * n), n - round(held_out * n)))

    def objective(network, batch):
        logits, person = network(batch["image"]), batch["person"]
        person = torch.searchsorted(people.to(person.device), person)
        right = logits.detach().argmax(1) == person
        return dict(loss=F.cross_entropy(logits, person), train_top1=right.float().mean())

    def validate(network):
        guesses = predict(network, faces, rows=held).argmax(1)
        return dict(top1=float((people[guesses] == faces.person[held]).float().mean()))

    draw = data.stored_batches(faces, kept, recipe.batch_size, recipe.seed)
    validate = validate if len(held) else None
    return _train(recognizer, recipe, fabric, len(kept), draw, objective, validate)


def fit(network, model, train, validation, *, features=None, objective=None, **options):
    r"""Train an E2FAR to regress the coefficients of `model`, in place; returns the log, a
    DataFrame. The loss is the paper's, over the model's region, with our pose term:

    $\frac1N \lVert U(\hat\alpha - \alpha) \rVert^2
    + \lambda_e \frac1N \lVert W(\hat\beta - \beta) \rVert^2 + \lambda_p E_{pose}$

    train: data.Faces, or live.LiveFaces, made as training goes    validation: data.Faces or None
    features: None, or what the frozen trunk answers for the first faces of `train`
        (`store_features`): heads learn from these alone, many times faster than from pictures
    objective: another than `regression`, with its arguments
    options: fields of Recipe; fabric: a lightning Fabric, None is one CPU process of `precision`,
        as of `auto_precision`
    Raises ValueError when the loss is no longer finite, or sizes do not agree.
    """
    check_sizes(network, model, train)
    fabric = _fabric(options)
    recipe = Recipe(**options)
    tuned = any(phase.trunk_rate for phase in recipe.phases)
    if features and (recipe.mirror or recipe.augment or tuned):
        raise ValueError(
            "stored features train heads alone, and cannot be mirrored: give every phase "
            "trunk_rate 0, augment 0 and mirror False, or train on pictures"
        )
    if hasattr(train, "batch"):
        draw, seen = (lambda step: train.batch(step, recipe.batch_size)), train.settings
    else:
        seen = len(next(iter(features.values()))) if features else len(train)
        rows = torch.arange(seen)
        draw = data.stored_batches(train, rows, recipe.batch_size, recipe.seed, features)
    if recipe.mirror:
        draw = augmentation.mirrored_batches(draw, model, recipe.seed)
    objective = (objective or regression)(model, recipe, fabric.device, features)
    validate = None
    if validation:
        validate = lambda network: summary(evaluate(network, model, validation))
    return _train(network, recipe, fabric, seen, draw, objective, validate)


def regression(model, recipe, device, features=None):
    """The objective of `fit` for `loop`."""
    model = copy.deepcopy(model).float().to(device)
    identity_factor = losses.gram_factor(model.identity_basis[model.region])
    expression_factor = losses.gram_factor(model.expression_basis[model.region])

    def objective(network, batch):
        pred = network.heads(batch) if features else network(batch["image"])
        alpha, beta = batch["identity"], batch["expression"]
        identity = losses.vertex_energy(pred["identity"], alpha, identity_factor).mean()
        expression = losses.vertex_energy(pred["expression"], beta, expression_factor).mean()
        landmarks = landmarks_mm(model, alpha, beta)
        pose = losses.pose_energy(pred["pose"], batch["pose"], landmarks).mean()
        return dict(
            loss=recipe.identity_weight * identity
            + recipe.expression_weight * expression
            + recipe.pose_weight * pose,
            identity_mm2=identity,
            expression_mm2=expression,
            pose_percent2=pose,
        )

    return objective


def _fabric(options):
    """What the options `fabric` and `precision` tell of; they are taken out."""
    precision = auto_precision(options.pop("precision", "32-true"))
    given = options.pop("fabric", None)
    return given or Fabric(accelerator="cpu", devices=1, precision=precision)


def _train(module, recipe, fabric, seen, draw, objective, validate):
    """`loop` through the recipe; returns the log.

    seen: what a checkpoint must agree in about the faces    draw: step -> batch on the CPU
    """
    if recipe.optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer {recipe.optimizer!r}: choose one of {', '.join(OPTIMIZERS)}")
    if recipe.batch_size % fabric.world_size:
        raise ValueError(
            f"batch_size {recipe.batch_size} does not divide among {fabric.world_size} processes"
        )
    module.to(memory_format=torch.channels_last)
    heads = [p for name, p in module.named_parameters() if not name.startswith("trunk.")]
    groups = [dict(params=heads), dict(params=list(module.trunk.parameters()))]
    kind, decay = OPTIMIZERS[recipe.optimizer], recipe.weight_decay
    optimizer = kind(groups, lr=0.0, weight_decay=decay, fused=True)
    settings = recipe.settings() | dict(faces=seen, network=module.config)
    run = Run(module, optimizer, fabric, recipe, settings)
    run.validate = validate
    if hasattr(module, "heads"):  # which stored features enter by
        run.network.mark_forward_method("heads")
    mine = slice(fabric.global_rank, None, fabric.world_size)

    def batch_at(step):
        # Choice: pictures are changed before the batch is shared out among processes, so that
        # their number changes nothing.
        batch = draw(step)
        if "image" in batch:
            strength = recipe.augment * step / run.total
            batch["image"] = augmentation.augment(batch["image"], strength, (recipe.seed, step))
        return fabric.to_device({name: values[mine] for name, values in batch.items()})

    made = data.ahead(batch_at, run.total) if fabric.device.type == "cuda" else batch_at
    loop(run, recipe.phases, made, objective, recipe.clip, recipe.ema)
    return pd.DataFrame(run.rows)


def auto_precision(precision, device="cpu"):
    """ "32-true" or "bf16-mixed" for "auto": the latter where the device computes in bfloat16 (most
    GPUs; CPUs with AVX512-BF16 or AMX). Others as they are."""
    if precision != "auto":
        return precision
    if device == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"


@torch.no_grad()
def blend(average, module, decay):
    """Move `average`, weights and BatchNorm's statistics, towards a module:
    a <- decay a + (1 - decay) m."""
    for a, m in zip(average.state_dict().values(), module.state_dict().values()):
        a.lerp_(m, 1 - decay) if a.is_floating_point() else a.copy_(m)  # counts
