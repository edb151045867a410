"""Faces made while they are trained on: every picture is new, and none is stored.

A training that is resumed sees the faces that it would have seen.
"""

import itertools
import multiprocessing
import os
import pickle
import signal
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from threading import Thread

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from e2far.files import extra
from e2far.synthesis.studio import SPLITS, Studio, photograph_many

with extra("study"):
    from threadpoolctl import threadpool_limits

PART, AHEAD = 16, 4  # pictures that a worker makes at a time; parts that each makes ahead


@dataclass(frozen=True)
class Plan:
    """Which pictures there are, and which of them a batch is drawn from: a window that slides.

    Block b holds `block` pictures: of persons first_person + b block / pictures and following, the
    first `pictures` of each. At `step` the window holds the `window` blocks from number
    floor(step batch_size / (block uses)) on. A picture is thus used `uses` times on average, never
    twice in a batch (less in the first window - 1 blocks, which leave early).
    """

    seed: int
    split: str = "train"
    pictures: int = 2
    block: int = 512
    window: int = 8
    uses: float = 2
    first_person: int = 0
    n_jobs: int = 1  # worker processes, of one thread each

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r}: choose one of {', '.join(SPLITS)}")
        for name in ("pictures", "block", "window", "n_jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: make it 1 or more")
        if self.uses <= 0 or self.first_person < 0:
            raise ValueError("make uses positive and first_person 0 or more")
        if self.block % self.pictures:  # a person's pictures stay together
            raise ValueError(f"block {self.block} is no multiple of pictures {self.pictures}")


class LiveFaces:
    """Unlimited faces, in place of the stored ones of `data.Faces`, which it resembles.

    model: MorphableModel    size: px    settings: fields of `Plan`, other arguments of `Studio`

    Workers make pictures ahead; the first batch waits for a whole window, as does one at a step far
    off. Held in memory: window + 1 blocks. Close it, or use it in a `with`.

    Raises ValueError for arguments that do not fit together, RuntimeError if a worker is killed.
    """

    folder = "faces made on the fly"

    def __init__(self, model, size, **settings):
        names = {field.name for field in fields(Plan)} & set(settings)
        self.plan = plan = Plan(**{name: settings.pop(name) for name in names})
        self.settings = dict(size=size, **asdict(plan), **settings)  # what decides the pictures
        del self.settings["n_jobs"]
        Studio(model, size, **settings)  # so that wrong settings raise here, not in a worker
        self.image_size, labels = size, dict(pose=(9,), landmarks=(68, 2), person=())
        self.shapes = dict(image=(size, size, 3), identity=(model.n_identity,))
        self.shapes |= dict(expression=(model.n_expression,)) | labels
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # torch is imported once, not by every worker
        self.parts, self.held = Parts(pickle.dumps((model, size, settings)), plan), {}
        self.loader = DataLoader(
            self.parts,
            batch_size=None,
            sampler=self.parts,
            num_workers=plan.n_jobs,
            prefetch_factor=AHEAD,
            persistent_workers=True,
            multiprocessing_context=context,
            worker_init_fn=_begin,
            generator=torch.Generator(),  # so that the training's random numbers stay as they are
        )

    def batch(self, step, batch_size):
        """The batch of `step`, a function of it, `batch_size` and the settings alone.

        As of `data.Faces.gather`: image uint8 (B, 3, S, S) in channels-last memory, and labels.
        """
        plan, total = self.plan, self.plan.window * self.plan.block
        largest = int(min(total, plan.block * plan.uses))
        if not 1 <= batch_size <= largest:
            text = f"a batch of {batch_size} from {plan.window} blocks of {plan.block}"
            limit = f"make it 1 to {largest}, or block larger"
            raise ValueError(f"{text}, each used {plan.uses} times: {limit}")
        if self.loader is None:
            raise RuntimeError(f"{self.folder} are closed: make new ones")
        first = int(step * batch_size // (plan.block * plan.uses)) * plan.block
        # The next block comes in bit by bit, so that workers are always busy.
        self._hold(first, total + max(first, int(step * batch_size / plan.uses)))
        rng = np.random.default_rng((plan.seed, step))
        numbers = first + rng.choice(total, batch_size, replace=False)
        places = [divmod(number, self.parts.length) for number in numbers.tolist()]
        rows = [(self.held[part], row) for part, row in places]
        batch = {name: torch.stack([part[name][row] for part, row in rows]) for name in self.shapes}
        return batch | {"image": batch["image"].permute(0, 3, 1, 2)}

    def _hold(self, start, stop):
        """Have the parts with the pictures from number `start` to `stop` in memory, no others."""
        first, end = start // self.parts.length, -(-stop // self.parts.length)
        held, self.held = self.held, {}  # nothing, if this is interrupted
        try:
            if first not in held:
                held, self.parts.first = {}, first
                self.coming = iter(self.loader)  # ty: ignore[no-matching-overload]
            for number in range(max(held, default=first - 1) + 1, end):
                # A copy, since workers answer in shared memory.
                held[number] = {name: rows.clone() for name, rows in next(self.coming).items()}
        except (RuntimeError, OSError) as error:
            raise RuntimeError(
                f"a process that makes {self.folder} has ended: its error is above, or it was "
                "killed, perhaps for lack of memory; lower n_jobs, block or window and run again"
            ) from error
        self.held = {number: part for number, part in held.items() if number >= first}

    def close(self):
        """End the workers, as also happens when nobody holds these faces any more."""
        self.loader = self.coming = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Parts(Dataset):
    """Pictures of a Plan, `length` at a time, in the order of their numbers from part `first` on.

    told: a pickle of the Studio's arguments; as tensors they would move to shared memory
    """

    def __init__(self, told, plan):
        self.told, self.plan, self.first = told, plan, 0
        self.length = max(1, PART // plan.pictures) * plan.pictures

    def __iter__(self):
        return itertools.count(self.first)

    @cached_property
    def studio(self):
        model, size, settings = pickle.loads(self.told)  # noqa: S301 (told by our own process)
        return Studio(model, size, **settings)

    def __getitem__(self, part):  # ty: ignore[lost-keyword-for-regular-parameter]
        plan, first = self.plan, part * self.length + self.plan.first_person * self.plan.pictures
        numbers = [divmod(number, plan.pictures) for number in range(first, first + self.length)]
        return photograph_many(self.studio, plan.seed, plan.split, numbers)


def _begin(_):
    """Set up a worker: one thread, which ends with the training."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the training to handle
    threadpool_limits(1)

    def end_with_training():
        multiprocessing.parent_process().join()  # ty: ignore[missing-union-attribute]
        os._exit(1)

    # DataLoader's own watchdog takes the fork server for the parent; that outlives the training.
    Thread(target=end_with_training, daemon=True).start()
