"""End-to-end 3D face reconstruction after UH-E2FAR (Dou, Shah, Kakadiaris, CVPR 2017).

from e2far import Reconstructor
face = Reconstructor.from_pretrained()("photo.jpg")
face.save("face.obj")
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what editors and type checkers see of the names below
    from e2far.facemodels import load_face_model
    from e2far.morphable import MorphableModel
    from e2far.photo.reconstructor import Reconstructor

__version__ = "1.0.0"
SHIPPED = Path(__file__).resolve().parent / "shipped"  # network, its calibration, face model

HOMES = {
    "MorphableModel": "e2far.morphable",
    "load_face_model": "e2far.facemodels",
    "Reconstructor": "e2far.photo.reconstructor",
}
__all__ = ["MorphableModel", "Reconstructor", "__version__", "load_face_model"]


def __getattr__(name: str):
    """Import a public name when it is first used: `import e2far` does not wait for torch."""
    if name not in HOMES:
        raise AttributeError(f"module 'e2far' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__():
    return sorted([*globals(), *HOMES])
