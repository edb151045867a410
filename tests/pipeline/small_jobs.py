"""Trainings of milliseconds a step, on the faces of test_training's `root`."""

SIZES = dict(image_size=48, width=1 / 16, batch_norm=True)
FROZEN, WHOLE = dict(heads_rate=1e-3), dict(heads_rate=1e-3, trunk_rate=1e-3)  # the trunk
WEIGHTS = dict(batch_size=8, expression_weight=1.0, pose_weight=0.1, weight_decay=1e-3, clip=5.0)
RECIPE = WEIGHTS | dict(
    ema=0.9,
    augment=0.5,
    log_every=3,
    checkpoint_every=4,
    phases=[FROZEN | dict(steps=5), WHOLE | dict(steps=10)],
)


def job(root, folder, **changes):
    """A config of `trainings.train_job`."""
    model = root / "toy.npz"
    common = dict(folder=folder, faces=root, model=model, network=SIZES, training=RECIPE, seed=0)
    return common | changes
