"""The Surrey Face Model, and any other model in the binary format of the library eos."""
from pathlib import Path

import numpy as np

from e2far.facemodels.registration import as_modes, as_vertices, assemble, reading

WHAT = "a Surrey Face Model as eos writes it, e.g. sfm_shape_3448.bin of the project eos (patrikhuber/eos), in mm; larger ones are requested from the University of Surrey (CVSSP)"


def read(path, n_identity=None, n_expression=None, landmarks=None, blendshapes=None):
    """The MorphableModel of an eos .bin: mm, head frame; eos holds variances, which it returns rescaled.

    blendshapes: an eos file of expressions, which become named units; default: expression_blendshapes*.bin beside a sfm_shape*.bin. Without one, our own expressions are carried over.
    """
    import eos
    with reading(path, WHAT):
        path = Path(path)
        model = eos.morphablemodel.load_model(str(path))
        shape = model.get_shape_model()
        mean = as_vertices(shape.get_mean(), "the mean")
        expression, units, names = None, None, ()
        beside = sorted(path.parent.glob(path.stem.replace("sfm_shape", "expression_blendshapes") + ".bin")) if path.stem.startswith("sfm_shape") else []
        blendshapes = blendshapes or next(iter(beside), None)
        if blendshapes is not None:
            loaded = eos.morphablemodel.load_blendshapes(str(blendshapes))
            names = [b.name for b in loaded]
            units = as_modes(np.stack([np.ravel(b.deformation) for b in loaded], 1), len(mean), None, f"{Path(blendshapes).name}")
        elif model.has_separate_expression_model() and model.get_expression_model_type() == model.ExpressionModelType.PcaModel:
            part = model.get_expression_model()
            mean, expression = mean + as_vertices(part.get_mean(), "the mean expression"), as_modes(part.get_rescaled_pca_basis(), len(mean), None, "the expression basis", n_expression)
        return assemble("surrey", mean, as_modes(shape.get_rescaled_pca_basis(), len(mean), None, count=n_identity), np.array(shape.get_triangle_list()), expression, units, names,
                        landmarks, n_expression=n_expression)
