"""Tests import each other by name, whatever their folder. One BLAS thread, so that tests run beside
each other, and no window for figures. Set before numpy and torch are imported."""

import os
import sys
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ["MPLBACKEND"] = "Agg"

# Tests of one folder import small faces and trainings of another, in their own processes too.
folders = [str(path) for path in sorted(Path(__file__).parent.iterdir()) if path.is_dir()]
sys.path[:0] = folders
os.environ["PYTHONPATH"] = os.pathsep.join(
    [*folders, *filter(None, [os.environ.get("PYTHONPATH")])]
)

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def figures_are_closed():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture(scope="session")
def face_model():
    """The face model that is shipped."""
    from e2far.facemodels import load_face_model

    return load_face_model("makehuman")
