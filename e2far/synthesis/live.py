"""Faces made while they are trained on: every picture is new, and none is stored.

A training that is resumed sees the faces that it would have seen.
"""

import multiprocessing
import os
import pickle
import signal
import weakref
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from threading import Thread

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from e2far.synthesis.studio import SPLITS, Studio, photograph_many

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
        counts = self.pictures, self.block, self.window, self.n_jobs, self.first_person + 1
        if min(counts) < 1 or self.uses <= 0:
            raise ValueError(f"{self}: all must be positive, but first_person may be 0")
        if self.block % self.pictures:  # a person's pictures stay together
            raise ValueError(f"block {self.block} is no multiple of pictures {self.pictures}")


class LiveFaces:
    """Unlimited faces, in place of the stored ones of `data.Faces`, which it resembles.

    model: MorphableModel    size: px    settings: fields of `Plan`, other arguments of `Studio`

    Workers make pictures ahead; the first batch waits for most of a window, as does one at a step
    far off. Held in memory: window + 1 blocks. Close it, or use it in a `with`.

    Raises ValueError for arguments that do not fit together, RuntimeError if a worker is killed.
    """

    folder = "faces made on the fly"

    def __init__(self, model, size, **settings):
        names = {field.name for field in fields(Plan)} & set(settings)
        self.plan = plan = Plan(**{name: settings.pop(name) for name in names})
        self.settings = dict(size=size, **asdict(plan), **settings)  # what decides the pictures
        del self.settings["n_jobs"]
        Studio(model, size, **settings)  # so that wrong settings raise here, not in a worker
        self.image_size = size
        self.shapes = dict(identity=(model.n_identity,), expression=(model.n_expression,))
        self.length = max(1, PART // plan.pictures) * plan.pictures
        self.held = {}  # number of a part -> its future
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # torch is imported once, not by every worker
        told = pickle.dumps((model, size, settings))  # as tensors they would be in shared memory
        self.pool = ProcessPoolExecutor(plan.n_jobs, context, _begin, (told,))
        weakref.finalize(self, self.pool.shutdown, wait=False, cancel_futures=True)

    def batch(self, step, batch_size):
        """The batch of `step`, a function of it, `batch_size` and the settings alone.

        As of `data.Faces.gather`: image uint8 (B, 3, S, S) in channels-last memory, and labels.
        """
        plan, total = self.plan, self.plan.window * self.plan.block
        largest = int(min(total, plan.block * plan.uses))
        if not 1 <= batch_size <= largest:
            limit = f"make it 1 to {largest}, or block, window or uses larger"
            raise ValueError(f"a batch of {batch_size} from {plan}: {limit}")
        first = int(step * batch_size // (plan.block * plan.uses)) * plan.block
        rng = np.random.default_rng((plan.seed, step))
        numbers = first + rng.choice(total, batch_size, replace=False)
        # The next block comes in bit by bit, so that workers are always busy.
        stop = total + max(first, int(step * batch_size / plan.uses))
        parts = range(first // self.length, -(-stop // self.length) + AHEAD * plan.n_jobs)
        try:
            self.held = {part: self.held.get(part) or self._ask(part) for part in parts}
            rows = [(self._made(n // self.length), n % self.length) for n in numbers]
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"a process that makes {self.folder} was killed, perhaps for lack of memory: "
                "lower n_jobs, block or window and run again"
            ) from error
        batch = {
            name: torch.from_numpy(np.array([part[name][row] for part, row in rows]))
            for name in rows[0][0]
        }
        return batch | {"image": batch["image"].permute(0, 3, 1, 2)}

    def _ask(self, part):
        """The future columns of part number `part`."""
        start = part * self.length + self.plan.first_person * self.plan.pictures
        numbers = range(start, start + self.length)
        places = [divmod(number, self.plan.pictures) for number in numbers]
        return self.pool.submit(_photograph, self.plan.seed, self.plan.split, places)

    def _made(self, part):
        """The columns of part number `part`, once a worker has made them."""
        # Python 3.11 can forget, for ever, what is asked for just as a worker is killed.
        while not wait([self.held[part]], timeout=5).done:
            self.pool.submit(int)  # raises if the pool is broken
        return self.held[part].result()

    def close(self):
        """End the workers, as also happens when nobody holds these faces any more."""
        self.held.clear()
        self.pool.shutdown(cancel_futures=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


WORKER = {}  # the Studio of a worker


def _begin(told):
    """Set up a worker: one thread, which ends with the training."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the training to handle
    threadpool_limits(1)
    torch.set_num_threads(1)

    def end_with_training():
        multiprocessing.parent_process().join()
        os._exit(1)

    Thread(target=end_with_training, daemon=True).start()
    model, size, settings = pickle.loads(told)  # noqa: S301 (told by our own process)
    WORKER["studio"] = Studio(model, size, **settings)


def _photograph(seed, split, places):
    columns = photograph_many(WORKER["studio"], seed, split, places)
    return {name: column.numpy() for name, column in columns.items()}
