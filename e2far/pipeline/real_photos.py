"""The layer study on real photos too, from the user's own folder of AFLW2000-3D or 300W-LP.

python -m e2far.pipeline.real_photos FOLDER
"""

import sys
from pathlib import Path

from safetensors.torch import save_file

from e2far import data, files
from e2far.analysis import photos
from e2far.benchmark import datasets
from e2far.benchmark.datasets import aflw
from e2far.pipeline import layer_study, params, record

LEAST = 50  # photos: with fewer, the pose that is taken out explains all


def main(folder, profile=None):
    """Read the photos of a folder, then run the whole study with them."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give AFLW2000-3D's or 300W-LP's")
    p = params.load("layers", profile)
    data.Faces(p.data / "faces" / "train")  # the study trains on these: refused before photos are
    parts = (any(folder.glob(f"**/{name}/")) for name in (*aflw.PARTS, "landmarks"))
    kind = "300w-lp" if any(parts) else "aflw2000"
    sample = photos.read_sample(datasets.open_dataset(kind, folder), layer_study.SIZE)
    if len(sample["image"]) < LEAST:
        raise ValueError(f"{folder}: {len(sample['image'])} photos; readers need {LEAST} or more")
    path = layer_study.place(p, "real photos")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(sample, path)
    layer_study.main(profile)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("python -m e2far.pipeline.real_photos FOLDER")
    try:
        with record.timed(params.load("layers").data / "timings" / "layer_study.csv"):
            main(Path(sys.argv[1]))
    except files.EXPECTED as error:
        files.complain(error)
        sys.exit(1)
