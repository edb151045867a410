"""What the speed appendix measures and counts of training: a step's parts, its memory, its work."""

import re
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from e2far import augmentation, data, training
from e2far.benchmark.speed import parts_of
from e2far.files import extra
from e2far.morphable import toy_model
from e2far.network import E2FAR, FRONTAL

with extra("study"):
    from joblib.externals.loky import ProcessPoolExecutor
    from lightning_fabric import Fabric

STEP = {  # part of a step of training -> the function that does it
    "forward": (E2FAR, "forward"),
    "backward": (Fabric, "backward"),
    "reading pictures": (data.Faces, "gather"),
    "augmentation": (augmentation, "augment"),
    "clipping gradients": (Fabric, "clip_gradients"),
    "running average": (training, "blend"),
}


def step_parts(learn, optimizer, repeats, count):
    """`parts_of` a `training_loop` of `count` pictures, by training.OPTIMIZERS[optimizer]."""
    parts = STEP | {"moving the weights": (training.OPTIMIZERS[optimizer], "step")}
    return parts_of("training step", parts, learn, repeats, count)


def training_loop(network, model, faces, steps, **settings):
    """The loop of `training.fit`, ready to run, again and again; settings: as of `fit`"""
    phase = dict(steps=steps, heads_rate=1e-4, trunk_rate=1e-4)
    with mock.patch.object(training, "loop") as loop:
        training.fit(
            network, model, faces, None, phases=[phase], seed=0, progress=False, **settings
        )
    run, *others = loop.call_args.args

    def learn():
        run.step = 0
        training.loop(run, *others)

    return learn


def noise_faces(folder, count, network):
    """data.Faces of noise for an E2FAR, in `folder`: what they show costs no time."""
    columns = dict(
        image=torch.randint(256, (count, *[network.image_size] * 2, 3), dtype=torch.uint8),
        identity=torch.randn(count, network.n_identity),
        expression=torch.randn(count, network.n_expression),
        pose=torch.tensor(FRONTAL).repeat(count, 1),
        landmarks=torch.zeros(count, 68, 2),
        person=torch.arange(count),
    )
    data.write_shard(data.shard_path(folder, 0), columns)
    data.write_index(folder, count, count)
    return data.Faces(folder)


def few_steps(config, settings, steps, repeats):
    """`step_parts` of E2FAR(**config) on noise, and the most GB that a process held by then.

    # Choice: a toy face model. The loss sees no more of any than K x K numbers.
    """
    torch.set_num_threads(1)
    network, batch = E2FAR(**config), settings["batch_size"]
    model = toy_model(n_identity=network.n_identity, n_expression=network.n_expression)
    with tempfile.TemporaryDirectory() as folder:
        faces = noise_faces(folder, 4 * batch, network)
        learn = training_loop(network, model, faces, steps, **settings)
        found = step_parts(learn, settings["optimizer"], repeats, steps * batch)
        return found.assign(part="paper's network"), peak_gb()


def in_own_process(function, *args):
    """What function(*args) returns in a process that held nothing before."""
    with ProcessPoolExecutor(1) as worker:
        return worker.submit(function, *args).result()


def peak_gb():
    """The most memory that this process has held so far. Linux's getrusage would count what held
    the process before it became this program."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+)", status.read_text())):
        return int(found[1]) / 2**20
    import resource

    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def by_count(config, batch_size, precision):
    """Of a training step of E2FAR(**config), counted from shapes; nothing is computed.

    parameters    gflop: for each picture, forward and backward    memory_gb: name -> GB; what lives
    for a moment is not counted
    """
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        network, kept = E2FAR(**config), {}
        weights = {w.untyped_storage()._cdata for w in network.parameters()}

        def keep(tensor):
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"),
        ):
            out = network(torch.zeros(batch_size, 3, network.image_size, network.image_size))
        sum(values.float().sum() for values in out.values()).backward()
    count = sum(w.numel() for w in network.parameters())
    parts = {"weights": 4 * count, "gradients": 4 * count, "Adam's two moments": 8 * count}
    parts["kept for backward"] = sum(size for x, size in kept.items() if x not in weights)
    memory = {name: size / 2**30 for name, size in parts.items()}
    memory["in all"] = sum(memory.values())
    gflop = counter.get_total_flops() / batch_size / 1e9
    return SimpleNamespace(parameters=count, gflop=gflop, memory_gb=memory)
