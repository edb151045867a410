"""Shards of faces on disk, read without holding them in memory.

A split is a folder of `000/shard-000000.safetensors` ... `000/shard-000999.safetensors`, `001/shard-001000.safetensors` ..., no folder with more than a thousand of them,
and of `shards.json`, written last: {"faces": how many in all, "shard_size": how many a shard (the last may hold fewer)}. Each shard holds the same columns for its n faces:

    image (n, S, S, 3) uint8      identity (n, K)     expression (n, L)     pose (n, 9)     landmarks (n, 68, 2) px in the crop     person (n,) int64
"""

import functools
import json
import os
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.utils.data import Dataset

from e2far.files import replacing

LABELS = ("identity", "expression", "pose", "landmarks", "person")
INDEX = "shards.json"
OPEN_SHARDS = 1000  # memory maps a Faces keeps; Linux allows a process 65,530 of all kinds
AGAIN = "make the shards again with `dvc repro synthesis`"


def shard_path(folder, number):
    """Where shard `number` of the split `folder` lies."""
    return Path(folder) / f"{number // 1000:03d}" / f"shard-{number:06d}.safetensors"


def write_shard(path, columns, metadata=None):
    """Write the tensors `columns` (image and all of LABELS, equal lengths) as one shard, with str -> str `metadata` in its header. Raises OSError, e.g. when the disk is full."""
    # Choice: bytes first, then a plain write, not save_file: the error keeps its errno, the file gets the user's permissions, and it is on the disk before it has its name.
    content = save({name: column.contiguous() for name, column in columns.items()}, metadata)
    with replacing(path, f".{uuid4().hex}") as partial, open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_index(folder, faces, shard_size):
    """Declare the split `folder` finished: `faces` in all, `shard_size` in every shard but perhaps the last."""
    with replacing(Path(folder) / INDEX) as partial:
        partial.write_text(json.dumps(dict(faces=faces, shard_size=shard_size)))


def to_float(image):
    """uint8 images (B, 3, S, S) to float in [0, 1], the memory layout kept."""
    return image.float().div_(255)


class Faces(Dataset):
    """The faces of one split folder, memory-mapped: a batch opens the shards it needs, and no other.

    `faces[i]` is a dict of one face, image (3, S, S) float in [0, 1]; `faces[[3, 1, 4]]` is a batch of them. In a DataLoader pass `collate_fn=lambda batch: batch`.
    `faces.identity` (n, K), `.expression` (n, L), `.pose` (n, 9), `.landmarks` (n, 68, 2) and `.person` (n,) are columns of the whole split, read when first asked for.

    image_size: None, or px to which the pictures are reduced as they are read (bilinear, antialiased); landmarks follow

    Raises FileNotFoundError, OSError (truncated or unreadable shard) or ValueError (columns that do not fit together), naming the file, when it is first opened.
    """

    identity: torch.Tensor
    expression: torch.Tensor
    pose: torch.Tensor
    landmarks: torch.Tensor
    person: torch.Tensor

    def __init__(self, folder: str | Path, image_size: int | None = None):
        self.folder, self.reduced_to = Path(folder), image_size
        index = self.folder / INDEX
        try:
            counts = json.loads(index.read_text())
            self.count, self.shard_size = counts["faces"], counts["shard_size"]
            if not all(
                type(number) is int and 0 < number < 2**40
                for number in (self.count, self.shard_size)
            ):
                raise ValueError
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"no finished data set in {self.folder}, which lacks {INDEX}: {AGAIN}"
            ) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise OSError(f"{index} is truncated or no index at all: {AGAIN}") from error
        self.shard = functools.lru_cache(OPEN_SHARDS)(self._shard)
        self.shapes = {
            name: column.shape[1:] for name, column in _read(shard_path(self.folder, 0)).items()
        }  # of a face, in every shard

        stored = self.shapes["image"][0]
        self.image_size = image_size or stored
        self.scale = self.image_size / stored
        if self.scale > 1:
            raise ValueError(
                f"{self.folder} holds pictures of {stored} px, which cannot be reduced to {image_size} px: {AGAIN} at that size"
            )

    def __reduce__(self):
        return Faces, (self.folder, self.reduced_to)  # workers open the files anew

    def __len__(self) -> int:
        return self.count

    def __getattr__(self, name):
        if name not in LABELS:
            raise AttributeError(f"Faces has no {name}")
        column = torch.from_numpy(
            np.concatenate(
                [self.shard(number)[name] for number in range(-(-self.count // self.shard_size))]
            )
        )
        setattr(self, name, self.resized(**{name: column})[name])
        return getattr(self, name)

    def resized(self, **columns):
        """`columns` of a batch as of pictures of `image_size` px."""
        if self.scale < 1 and "landmarks" in columns:
            columns["landmarks"] = columns["landmarks"] * self.scale
        if self.scale < 1 and "image" in columns:
            columns["image"] = F.interpolate(
                columns["image"], size=self.image_size, mode="bilinear", antialias=True
            ).contiguous(memory_format=torch.channels_last)
        return columns

    def _shard(self, number):
        """Columns of shard `number` as views of the mapped file, checked."""
        path = shard_path(self.folder, number)
        shard = _read(path)
        expected = min(self.shard_size, self.count - number * self.shard_size)
        if len(shard["image"]) != expected:
            raise ValueError(f"{path} holds {len(shard['image'])} faces, not {expected}; {AGAIN}")
        for name, shape in self.shapes.items():
            if shard[name].shape[1:] != shape:
                raise ValueError(
                    f"{path}: {name} is {shard[name].shape[1:]} a face, but {shape} in the first shard; {AGAIN}"
                )
        return shard

    def gather(self, indices) -> dict[str, torch.Tensor]:
        """Batch of the faces `indices` with images still uint8, (B, 3, S, S) in channels-last memory: what a training loop moves to its device."""
        indices = np.asarray(indices)
        if indices.ndim != 1 or not len(indices) or indices.dtype.kind not in "iu":
            raise IndexError(
                f"{self.folder}: give one or more whole numbers, not {indices.dtype} {indices.shape}"
            )
        if ((indices < -self.count) | (indices >= self.count)).any():
            raise IndexError(
                f"{self.folder} holds {self.count} faces, and was asked for {indices.min()} to {indices.max()}"
            )
        numbers, rows = np.divmod(indices % self.count, self.shard_size)
        places = [(self.shard(number), row) for number, row in zip(numbers.tolist(), rows.tolist())]
        batch = {
            name: torch.from_numpy(np.array([shard[name][row] for shard, row in places]))
            for name in ("image", *LABELS)
        }
        return self.resized(**batch | {"image": batch["image"].permute(0, 3, 1, 2)})

    def __getitems__(self, indices):
        batch = self.gather(indices)
        return batch | {"image": to_float(batch["image"])}

    def __getitem__(self, index):
        if isinstance(index, (int, np.integer)):
            return {
                name: column[0]
                for name, column in self.__getitems__([range(len(self))[index]]).items()
            }
        return self.__getitems__(range(len(self))[index] if isinstance(index, slice) else index)


def _read(path):
    """Columns of one shard, as numpy views of the mapped file."""
    try:
        with safe_open(path, framework="pt") as file:
            missing = {"image", *LABELS} - set(file.keys())
            if missing:
                raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; {AGAIN}")
            shard = {name: file.get_tensor(name).numpy() for name in ("image", *LABELS)}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; {AGAIN}") from error
    except (
        SafetensorError,
        OSError,
        TypeError,
        AttributeError,
        KeyError,
        RuntimeError,
    ) as error:  # the latter of types that numpy has not
        raise OSError(f"{path} is truncated or no shard at all ({error}); {AGAIN}") from error
    lengths = {name: len(column) if column.ndim else 0 for name, column in shard.items()}
    if len(set(lengths.values())) > 1 or not lengths["image"]:
        raise ValueError(f"{path} holds columns of different or no length {lengths}; {AGAIN}")
    image = shard["image"]
    if (
        image.dtype != np.uint8
        or image.ndim != 4
        or image.shape[1] != image.shape[2]
        or image.shape[3] != 3
        or not image.size
    ):
        raise ValueError(
            f"{path}: image is {image.shape} {image.dtype}, not (n, S, S, 3) uint8; {AGAIN}"
        )
    for name, shape in dict(
        identity=(None,), expression=(None,), pose=(9,), landmarks=(68, 2), person=()
    ).items():
        column = shard[name]
        if (
            column.dtype.kind != ("i" if name == "person" else "f")
            or column.shape[1:] != shape
            and (shape != (None,) or column.ndim != 2)
            or not np.isfinite(column).all()
        ):
            raise ValueError(
                f"{path}: {name} is {column.shape} {column.dtype}, or not finite; {AGAIN}"
            )
    return shard
