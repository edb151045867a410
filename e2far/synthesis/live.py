"""Faces made while they are trained on: every picture is new, none is stored, and a training that is resumed sees the ones it would have seen."""

import multiprocessing
import pickle
import signal
import weakref
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from e2far import data
from e2far.synthesis.studio import SPLITS, Studio

PART = 64  # pictures that a worker makes at a time


class LiveFaces:
    """Unlimited faces of one split, in place of the stored ones of `data.Faces`: a batch is drawn from a window of blocks that slides over all the pictures there could be.

    Block b holds `block` pictures: of persons first_person + b block / pictures and following, the first `pictures` of each. At `step` the window holds the `window` blocks from number
    floor(step batch_size / (block uses)) on; every block uses / batch_size steps the oldest leaves and a new one enters. A picture is thus used `uses` times on average, never twice in a batch
    (less in the first window - 1 blocks, which leave early). Worker processes make the blocks ahead; the first batch waits for a whole window, as does one at a step far off.

    model: MorphableModel    size: px    n_jobs: worker processes, of one thread each    studio: other settings of `studio.Studio`

    image_size, shapes, folder: as `data.Faces` has them    Held in memory: window + ahead blocks. Close it, or use it in a `with`.
    Raises ValueError for arguments that do not fit together, RuntimeError if a worker is killed.
    """

    folder = "faces made on the fly"

    def __init__(
        self,
        model,
        size,
        *,
        seed,
        split="train",
        pictures=2,
        block=512,
        window=8,
        uses=2,
        n_jobs=1,
        first_person=0,
        **studio,
    ):
        if split not in SPLITS:
            raise ValueError(f"split {split!r}: choose one of {', '.join(SPLITS)}")
        for name, value in dict(
            pictures=pictures, block=block, window=window, n_jobs=n_jobs
        ).items():
            if value < 1:
                raise ValueError(f"{name} is {value}: make it 1 or more")
        if block % pictures:
            raise ValueError(
                f"block {block} is no multiple of pictures {pictures}: a person's pictures stay together"
            )
        if uses <= 0 or first_person < 0:
            raise ValueError(
                f"uses is {uses} and first_person {first_person}: make uses positive and first_person 0 or more"
            )
        (
            self.pictures,
            self.block,
            self.window,
            self.uses,
            self.first_person,
            self.seed,
            self.image_size,
        ) = pictures, block, window, uses, first_person, seed, size
        self.settings = dict(
            size=size,
            seed=seed,
            split=split,
            pictures=pictures,
            block=block,
            window=window,
            uses=uses,
            first_person=first_person,
            **studio,
        )  # what decides the pictures
        self.part = max(1, PART // pictures) * pictures
        self.ahead = (
            2 + n_jobs * self.part // block
        )  # blocks, so that each worker finds something to do
        Studio(model, size, **studio)  # so that wrong settings raise here, not in a worker
        self.shapes = dict(
            image=(size, size, 3),
            identity=(model.n_identity,),
            expression=(model.n_expression,),
            pose=(9,),
            landmarks=(68, 2),
            person=(),
        )
        kinds = dict(image=torch.uint8, person=torch.int64)
        # Picture number n, counted over all blocks, lies in row n % (window block): a block that enters takes the place of the one that leaves.
        self.columns = {
            name: torch.empty(window * block, *shape, dtype=kinds.get(name, torch.float32))
            for name, shape in self.shapes.items()
        }
        self.held, self.coming = (
            [None] * window,
            {},
        )  # number of the block in each place; number -> futures of the parts of blocks being made
        method = (
            "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        )
        context = multiprocessing.get_context(method)
        context.set_forkserver_preload([__name__])  # torch is imported once, not by every worker
        # Choice: the model as plain bytes, kept exactly and without a file to clear away; multiprocessing would share its tensors through file descriptors.
        told = pickle.dumps((model, size, studio, seed, split, pictures, first_person))
        self.tasks, processes = SimpleQueue(), []
        # Choice: a pipe and a thread for each worker, not a ProcessPoolExecutor, whose workers share a pipe: it waits for ever for one that is killed while it answers, and at exit for all it was asked for.
        for _ in range(n_jobs):
            ours, theirs = context.Pipe()
            processes.append(context.Process(target=_work, args=(theirs, told), daemon=True))  # ty: ignore[missing-attribute]
            processes[-1].start()
            theirs.close()
            Thread(target=_ask, args=(self.tasks, ours), daemon=True).start()
        self.close = weakref.finalize(
            self, _stop, self.tasks, processes
        )  # called by hand, or when nobody holds these faces any more, or at exit

    def batch(self, step, batch_size):
        """The batch of `step`, a function of it, `batch_size` and the settings alone: as `data.Faces.gather` gives it, image uint8 (B, 3, S, S) in channels-last memory, the labels."""
        total = self.window * self.block
        if not 1 <= batch_size <= min(total, self.block * self.uses):
            raise ValueError(
                f"a batch of {batch_size} from {self.window} blocks of {self.block}, each used {self.uses} times: make it 1 to {int(min(total, self.block * self.uses))}, or block larger"
            )
        if not self.close.alive:
            raise RuntimeError(f"{self.folder} are closed: make new ones")
        first = int(step * batch_size // (self.block * self.uses))
        self._slide(first)
        numbers = first * self.block + np.random.default_rng((self.seed, step)).choice(
            total, batch_size, replace=False
        )
        rows = torch.from_numpy(numbers % total)
        batch = {name: column[rows] for name, column in self.columns.items()}
        return batch | {"image": batch["image"].permute(0, 3, 1, 2)}

    def _slide(self, first):
        """Have the blocks from number `first` on in their places, the next ones being made, and no others."""
        wanted = range(first, first + self.window + self.ahead)
        for number in set(self.coming).difference(wanted):
            for future in self.coming.pop(number):
                future.cancel()
        for number in wanted:
            if number not in self.coming and self.held[number % self.window] != number:
                starts, end = (
                    range(number * self.block, (number + 1) * self.block, self.part),
                    (number + 1) * self.block,
                )
                self.coming[number] = [Future() for _ in starts]
                for future, start in zip(self.coming[number], starts):
                    self.tasks.put((future, (start, min(start + self.part, end))))
        for number in wanted[: self.window]:
            place = number % self.window
            if self.held[place] != number:
                self.held[place], row = None, place * self.block
                for future in self.coming[number]:
                    try:
                        part = {
                            name: torch.from_numpy(values)
                            for name, values in future.result().items()
                        }
                    except (EOFError, OSError) as error:
                        raise RuntimeError(
                            f"a process that makes {self.folder} has ended: its error is printed above, or it was killed, perhaps for lack of memory; "
                            "lower n_jobs, block or window and run again"
                        ) from error
                    for name, column in self.columns.items():
                        column[row : row + len(part["person"])] = part[name]
                    row += len(part["person"])
                self.held[place] = number
                del self.coming[number]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _stop(tasks, processes):
    """End the workers, whatever they are at."""
    for process in processes:
        process.terminate()
        tasks.put(None)
    for process in processes:
        process.join()


def _ask(tasks, connection):
    """Have one worker do `tasks`, pairs of a Future and the range of pictures it is for, until one is None; a thread of the training. A worker that is dead does them at once, as errors."""
    for future, numbers in iter(tasks.get, None):
        if future.set_running_or_notify_cancel():
            try:
                connection.send(numbers)
                future.set_result(connection.recv())
            except Exception as error:
                future.set_exception(error)


def _work(connection, told):
    """A worker: pictures for `_ask`, until its process is no more. NumPy arrays, whose bytes travel; of tensors file descriptors would."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the training to handle
    torch.set_num_threads(1)
    threadpool_limits(1)
    model, size, studio, seed, split, pictures, first_person = pickle.loads(told)  # noqa: S301 (told by the process that started this one)
    studio = Studio(model, size, **studio)
    with suppress(EOFError, ConnectionError):
        while True:
            numbers = [
                (first_person + number // pictures, number % pictures)
                for number in range(*connection.recv())
            ]
            rows = [studio.photograph(seed, split, *number) for number in numbers]
            connection.send(
                {name: np.array([row[name] for row in rows]) for name in ("image", *data.LABELS)}
            )
