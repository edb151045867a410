"""Shards of faces on disk, read without holding them in memory.

A split is a folder of `000/shard-000000.safetensors` ... `000/shard-000999.safetensors`,
`001/shard-001000.safetensors` ..., no folder with more than a thousand of them, and of
`shards.json`, written last: {"faces": how many in all, "shard_size": how many a shard (the last may
hold fewer)}. Each shard holds the same columns for its n faces:

    image (n, S, S, 3) uint8    identity (n, K)    expression (n, L)    pose (n, 9)
    landmarks (n, 68, 2) px in the crop    person (n,) int64
"""

import functools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.utils.data import Dataset

from e2far.files import reading, replacing

LABELS = ("identity", "expression", "pose", "landmarks", "person")
INDEX = "shards.json"
OPEN_SHARDS = 1000  # memory maps a Faces keeps; Linux allows a process 65,530 of all kinds
AGAIN = "make the shards again with `dvc repro synthesis`"


def shard_path(folder, number):
    """Where shard `number` of the split `folder` lies."""
    return Path(folder) / f"{number // 1000:03d}" / f"shard-{number:06d}.safetensors"


def write_shard(path, columns, metadata=None):
    """Write the tensors `columns` (image and all of LABELS, equal lengths) as one shard.

    metadata: str -> str, for the header    Raises OSError, e.g. when the disk is full.
    """
    # Choice: bytes first, then a plain write, not save_file: the error keeps its errno, the file
    # gets the user's permissions, and it is on the disk before it has its name.
    content = save({name: column.contiguous() for name, column in columns.items()}, metadata)
    with replacing(path, f".{uuid4().hex}") as partial, open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_header(path):
    """The `header` of the shard at `path`; None where there is no whole one."""
    try:
        with safe_open(path, "pt") as shard:
            return shard.metadata()
    except (SafetensorError, OSError):
        return None


def write_index(folder, faces, shard_size):
    """Declare the split `folder` finished: `faces` in all, in shards of `shard_size`."""
    with replacing(Path(folder) / INDEX) as partial:
        partial.write_text(json.dumps(dict(faces=faces, shard_size=shard_size)))


def to_float(image):
    """uint8 images (B, 3, S, S) to float in [0, 1], the memory layout kept."""
    return image.float().div_(255)


class Faces(Dataset):
    """The faces of one split, memory-mapped: a batch opens the shards it needs, and no other.

    `faces[i]` is a dict of one face, image (3, S, S) float in [0, 1]; `faces[[3, 1, 4]]` is a batch
    of them. In a DataLoader pass `collate_fn=lambda batch: batch`.
    `faces.identity` (n, K) ... `.person` (n,) are columns of the whole split, read when asked for.

    image_size: px to which pictures are reduced as they are read (bilinear, antialiased), landmarks
        too; None: as stored
    Raises FileNotFoundError, or ValueError for damage and for columns that do not fit, naming the
    file, when it is first opened.
    """

    def __init__(self, folder: str | Path, image_size: int | None = None):
        self.folder, self.reduced_to = Path(folder), image_size
        index = self.folder / INDEX
        with reading(index, f"the index of a finished split: {AGAIN}"):
            counts = json.loads(index.read_text())
            self.count, self.shard_size = counts["faces"], counts["shard_size"]
        self.shard = functools.lru_cache(OPEN_SHARDS)(self._open)
        first = _read(shard_path(self.folder, 0))
        self.shapes = {name: column.shape[1:] for name, column in first.items()}  # of a face
        self.kinds = {name: column.dtype for name, column in first.items()}
        stored = self.shapes["image"][0]
        self.image_size = image_size or stored
        self.scale = self.image_size / stored
        if self.scale > 1:
            raise ValueError(f"{folder} holds pictures of {stored} px, not {image_size}: {AGAIN}")

    def __reduce__(self):
        return Faces, (self.folder, self.reduced_to)  # workers open the files anew

    def __len__(self) -> int:
        return self.count

    def __getattr__(self, name) -> torch.Tensor:
        if name not in LABELS:
            raise AttributeError(f"Faces has no {name}")
        shards = range(-(-self.count // self.shard_size))
        column = torch.from_numpy(np.concatenate([self.shard(number)[name] for number in shards]))
        setattr(self, name, self._resized({name: column})[name])
        return getattr(self, name)

    def _resized(self, columns):
        """`columns` as of pictures of `image_size` px."""
        if self.scale < 1 and "landmarks" in columns:
            columns["landmarks"] = columns["landmarks"] * self.scale
        if self.scale < 1 and "image" in columns:
            columns["image"] = F.interpolate(
                columns["image"], size=self.image_size, mode="bilinear", antialias=True
            ).contiguous(memory_format=torch.channels_last)
        return columns

    def _open(self, number):
        """Columns of shard `number` as views of the mapped file, checked against the first one."""
        path = shard_path(self.folder, number)
        shard, count = _read(path), min(self.shard_size, self.count - number * self.shard_size)
        for name, column in shard.items():
            shape, kind = (count, *self.shapes[name]), self.kinds[name]
            if column.shape != shape or column.dtype != kind:
                found = f"{column.shape} {column.dtype}"
                raise ValueError(f"{path}: {name} is {found}, not {shape} {kind}; {AGAIN}")
        return shard

    def gather(self, indices) -> dict[str, torch.Tensor]:
        """Batch of the faces `indices`; images are bytes, (B, 3, S, S) in channels-last memory."""
        indices = np.asarray(indices)
        if indices.ndim != 1 or not len(indices) or indices.dtype.kind not in "iu":
            raise IndexError(f"give one or more whole numbers, not {indices.dtype} {indices.shape}")
        if indices.min() < -self.count or indices.max() >= self.count:
            raise IndexError(f"{indices.min()} to {indices.max()}, of {self.count} faces")
        places = [divmod(index, self.shard_size) for index in (indices % self.count).tolist()]
        rows = [(self.shard(number), row) for number, row in places]
        batch = {
            name: torch.from_numpy(np.array([shard[name][row] for shard, row in rows]))
            for name in self.shapes
        }
        return self._resized(batch | {"image": batch["image"].permute(0, 3, 1, 2)})

    def __getitems__(self, indices):
        batch = self.gather(indices)
        return batch | {"image": to_float(batch["image"])}

    def __getitem__(self, index):
        if isinstance(index, (int, np.integer)):
            return {name: column[0] for name, column in self.__getitems__([index]).items()}
        return self.__getitems__(range(len(self))[index] if isinstance(index, slice) else index)


def _read(path):
    """Columns of one shard, as numpy views of the mapped file."""
    with reading(path, f"a shard of faces: {AGAIN}"), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).numpy() for name in ("image", *LABELS)}


def stored_batches(faces, rows, batch_size, seed, features=None):
    """step -> batch of the `rows` of `faces`: pictures, or stored `features` in their place."""

    def draw(step):
        at = rows[batch_indices(len(rows), batch_size, step, seed)]
        if not features:
            return faces.gather(at)
        labels = {name: getattr(faces, name)[at] for name in LABELS}
        return labels | {layer: values[at].float() for layer, values in features.items()}

    return draw


def batch_indices(n, batch_size, step, seed):
    """Which of `n` faces form the batch of `step`, by `seed`: each epoch is a new permutation."""
    batch_size = min(batch_size, n)
    epoch, place = divmod(step, n // batch_size)
    return _permutation(n, seed, epoch)[place * batch_size : (place + 1) * batch_size]


@functools.lru_cache(maxsize=2)
def _permutation(n, seed, epoch):
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(n))


def ahead(batch_at, total):
    """`batch_at` that prepares the next batch in a thread while a device is busy with this one."""
    pool, waiting = ThreadPoolExecutor(1), {}

    def batch(step):
        for near in (step, step + 1):
            if near < total and near not in waiting:
                waiting[near] = pool.submit(batch_at, near)
        return waiting.pop(step).result()

    return batch
