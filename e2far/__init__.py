"""End-to-end 3D face reconstruction after UH-E2FAR (Dou, Shah, Kakadiaris, CVPR 2017).

    from e2far import Reconstructor
    face = Reconstructor.from_pretrained()("photo.jpg")
    face.save("face.obj")
"""
from importlib import import_module

__version__ = "0.6.0"

_HOME = {"MorphableModel": "morphable", "load_face_model": "morphable", "Reconstructor": "photo"}
__all__ = [*_HOME, "__version__"]


def __getattr__(name):
    """Import a public name when it is first used, so that `import e2far` and `e2far --version` do not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'e2far' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__():
    return sorted([*globals(), *_HOME])
