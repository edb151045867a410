import pytest
import torch

from e2far import morphable
from e2far.synthesis.studio import Studio


@pytest.fixture(scope="session")
def head(face_model):
    """Points, landmarks, triangles and attributes of the mean face, as arrays."""
    attributes = {name: values.numpy() for name, values in face_model.attributes.items()}
    parts = face_model.mean, face_model.landmarks, face_model.triangles
    return *(part.numpy() for part in parts), attributes


@pytest.fixture(scope="session")
def studio(face_model):
    return Studio(face_model, 48)


@pytest.fixture
def toy():
    """A face model that knows only triangles, landmarks and modes."""
    return morphable.toy_model(dtype=torch.float32)
