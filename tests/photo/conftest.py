import pytest
import torch
from untrained import untrained

from e2far import morphable
from e2far.photo.reconstructor import Reconstructor
from e2far.weights import save_network


@pytest.fixture(scope="session")
def toy():
    return morphable.toy_model(dtype=torch.float32)


@pytest.fixture(scope="session")
def files(toy, tmp_path_factory):
    """The weights of an untrained network and its toy face model."""
    folder = tmp_path_factory.mktemp("weights")
    toy.save(folder / "toy.npz")
    save_network(untrained(), folder / "tiny.safetensors")
    return folder / "tiny.safetensors", folder / "toy.npz"


@pytest.fixture(scope="session")
def tiny(files):
    return Reconstructor.from_pretrained(*files)


@pytest.fixture(scope="session")
def shipped():
    return Reconstructor.from_pretrained()
