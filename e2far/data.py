"""Shards of faces on disk, read without holding them in memory.

A split is a folder of `shard-00000.safetensors`, `shard-00001.safetensors`, ...; each holds the same columns for n faces:

    image (n, S, S, 3) uint8      identity (n, K)     expression (n, L)     pose (n, 9)     landmarks (n, 68, 2) px in the crop     person (n,) int64
"""
import hashlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import Dataset

LABELS = ("identity", "expression", "pose", "landmarks", "person")
AGAIN = "make the shards again with `dvc repro synthesis`"


@contextmanager
def replacing(path):
    """A path to write to, renamed to `path` when the block ends without an error: a reader never meets half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def source_version(*modules):
    """Sixteen hexadecimal digits that change when the source of a module does: what was made by other code is not taken for finished."""
    return hashlib.sha256(b"".join(Path(module.__file__).read_bytes() for module in modules)).hexdigest()[:16]


def write_shard(path, columns, metadata=None):
    """Write the tensors `columns` (image and all of LABELS, equal lengths) as one shard, with str -> str `metadata` in its header."""
    with replacing(path) as partial:
        save_file({name: column.contiguous() for name, column in columns.items()}, partial, metadata=metadata)


def to_float(image):
    """uint8 images (B, 3, S, S) to float in [0, 1], the memory layout kept."""
    return image.float().div_(255)


class Faces(Dataset):
    """The faces of one split folder: labels in memory, images memory-mapped.

    `faces.identity` (n, K), `.expression` (n, L), `.pose` (n, 9), `.landmarks` (n, 68, 2) and `.person` (n,) are the columns of the whole split; `faces[i]` is
    a dict of one face, image (3, S, S) float in [0, 1]; `faces[[3, 1, 4]]` is a batch of them. In a DataLoader pass `collate_fn=lambda batch: batch`.

    Raises FileNotFoundError, OSError (truncated or unreadable shard) or ValueError (columns that do not fit together), naming the file.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        paths = sorted(self.folder.glob("shard-*.safetensors"))
        if not paths:
            raise FileNotFoundError(f"no shards in {self.folder}: {AGAIN}")
        shards = [_read(path) for path in paths]
        for path, shard in zip(paths, shards):
            for name, column in shard.items():
                if column.shape[1:] != shards[0][name].shape[1:]:
                    raise ValueError(f"{path}: {name} is {tuple(column.shape[1:])} a face, but {tuple(shards[0][name].shape[1:])} in {paths[0].name}; {AGAIN}")
        self.images = [shard["image"] for shard in shards]
        self.identity, self.expression, self.pose, self.landmarks, self.person = (torch.cat([shard[name] for shard in shards]) for name in LABELS)
        counts = torch.tensor([len(image) for image in self.images])
        self.shard = torch.arange(len(shards)).repeat_interleave(counts)                                   # of face i
        self.row = torch.arange(len(self.shard)) - (counts.cumsum(0) - counts).repeat_interleave(counts)   # of face i within its shard

    def __reduce__(self):
        return Faces, (self.folder,)        # workers open the files anew

    def __len__(self):
        return len(self.person)

    @property
    def image_size(self):
        return self.images[0].shape[1]

    def gather(self, indices):
        """Batch of the faces `indices` with images still uint8, (B, 3, S, S) in channels-last memory: what a training loop moves to its device."""
        indices = torch.as_tensor(indices)
        image = torch.stack([self.images[s][r] for s, r in zip(self.shard[indices].tolist(), self.row[indices].tolist())])
        return {"image": image.permute(0, 3, 1, 2)} | {name: getattr(self, name)[indices] for name in LABELS}

    def __getitems__(self, indices):
        batch = self.gather(indices)
        return batch | {"image": to_float(batch["image"])}

    def __getitem__(self, index):
        if isinstance(index, int):
            return {name: column[0] for name, column in self.__getitems__([range(len(self))[index]]).items()}
        return self.__getitems__(range(len(self))[index] if isinstance(index, slice) else index)


def _read(path):
    """Columns of one shard, the image as a view of the mapped file and the labels in memory."""
    try:
        with safe_open(path, framework="pt") as file:
            missing = {"image", *LABELS} - set(file.keys())
            if missing:
                raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; {AGAIN}")
            shard = {name: file.get_tensor(name) for name in ("image", *LABELS)}
    except (SafetensorError, OSError) as error:
        raise OSError(f"{path} is truncated or no shard at all ({error}); {AGAIN}") from error
    lengths = {name: len(column) for name, column in shard.items()}
    if len(set(lengths.values())) > 1 or not lengths["image"]:
        raise ValueError(f"{path} holds columns of different or no length {lengths}; {AGAIN}")
    image = shard["image"]
    if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[1] != image.shape[2] or image.shape[3] != 3:
        raise ValueError(f"{path}: image is {tuple(image.shape)} {image.dtype}, not (n, S, S, 3) uint8; {AGAIN}")
    return {"image": image} | {name: shard[name].clone() for name in LABELS}


def augment(image, strength, seed):
    """Change how pictures look, not where anything is: blur, grey, tone curve, contrast, gain and colour, a covered rectangle.

    image: (B, 3, S, S) float in [0, 1], overwritten    strength: 0 (nothing) to 1    seed: an int or several; the same seed, the same changes
    """
    if strength <= 0:
        return image
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    count, _, side, _ = image.shape

    def uniform(low, high, *shape):
        return (low + (high - low) * torch.rand(count, *shape, generator=generator)).to(image.device)

    # Blur a quarter of them (the batch is in random order already): down to as little as a third of the size, and up again.
    size = round(side * (1 - .67 * strength * float(torch.rand((), generator=generator))))
    blurred = slice(0, -(-count // 4))
    image[blurred] = F.interpolate(F.interpolate(image[blurred], size=size, mode="bilinear"), size=side, mode="bilinear")

    # Saturation, none for a tenth of them; x + c x (1 - x) as a cheap gamma; gain and offset, a little different for each colour.
    fade = (strength * uniform(-.2, .4, 1, 1, 1)).clamp(0).maximum(strength * (uniform(0, 1, 1, 1, 1) < .1))
    image = image.lerp_(image.mean(1, keepdim=True), fade)
    image = image.addcmul_(image * (1 - image), strength * uniform(-.6, .6, 1, 1, 1))
    gain = 1 + strength * (uniform(-.3, .3, 1, 1, 1) + uniform(-.1, .1, 3, 1, 1))
    offset = .5 + strength * uniform(-.15, .15, 1, 1, 1) - .5 * gain
    image = torch.addcmul(offset, image, gain).clamp_(0, 1)

    # Cover a rectangle of up to 40 % of the side in a third of them.
    place = torch.arange(side, device=image.device)
    centre, half = uniform(0, side, 2, 1), .2 * side * strength * uniform(.2, 1, 2, 1) * (uniform(0, 1, 1, 1) < .33)
    rows, columns = ((place - centre).abs() < half).unbind(1)
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], uniform(0, 1, 3, 1, 1), image)
