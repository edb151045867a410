"""The layer study on real photos too, from the user's own folder of AFLW2000-3D or 300W-LP.

python -m e2far.pipeline.real_photos FOLDER
"""

import sys
from pathlib import Path

from safetensors.torch import save_file

from e2far.analysis import photos
from e2far.benchmark import datasets
from e2far.pipeline import layer_study, params


def main(folder, profile=None):
    """Read the photos of a folder, then run the whole study with them."""
    kind = "300w-lp" if any(folder.glob("**/landmarks")) else "aflw2000"
    sample = photos.read_sample(datasets.open_dataset(kind, folder), layer_study.SIZE)
    path = layer_study.place(params.load("layers", profile), "real photos")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(sample, path)
    layer_study.main(profile)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
