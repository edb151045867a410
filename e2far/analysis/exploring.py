"""The small package that notebook 3 plays with, so that it runs right after `make setup`.

data/explore/ holds a few hundred faces with their numbers, four people with four expressions each,
and decoders: what a linear reader makes of each layer, fitted on thousands of other faces. The
recogniser comes from its own package, its untrained twin is made again from its seed, the
end-to-end network is the shipped one.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter

from e2far import SHIPPED, losses
from e2far.analysis import counterfactuals, probes
from e2far.analysis.subjects import END_TO_END, RECOGNISER, TWIN, Subject, calibrate
from e2far.files import reading
from e2far.recogniser import Recogniser, weights_file
from e2far.synthesis.studio import Studio
from e2far.weights import load_network

POSES = dict(yaw_deg=25.0, pitch_deg=10.0, roll_deg=10.0, without=("obstacles",))
# Unit names without their side -> strength
EXPRESSIONS = {
    "neutral": {},
    "smile": {"mouthSmile": 1.0, "cheekSquint": 0.7, "eyeSquint": 0.4},
    "open mouth": {"jawOpen": 0.8},
    "raised brows": {"browInnerUp": 1.0, "browOuterUp": 1.0, "eyeWide": 0.8},
}
SHEET = 16  # faces in a row of the pictures' file
SEED = 0  # of the untrained twin
PACKAGE = "part of notebook 3's package: `git checkout data/explore` brings it back"


def write(folder, model, sample, *, people, pictures, rank, components, seed):
    """Write the package to `folder`.

    sample: faces for the decoders, of `counterfactuals.draw_sample`
    people, pictures: how many faces are shown
    rank: numbers that a decoder passes on, for identity and expression each
    """
    folder = Path(folder)
    size = sample["image"].shape[-1]
    faces = counterfactuals.draw_sample(
        model, people, size, seed + 3, split="repeated", pictures=pictures, **POSES
    )
    for name, rows in dict(faces=faces, expressions=_pose_expressions(model, size, seed)).items():
        _write_faces(folder / name, rows)
    decoders = {}
    for name, subject in open_subjects(folder).items():
        for layer, x in subject.features(sample).items():
            found = fit_decoder(x, sample, model, rank, components)
            decoders |= {f"{name}/{layer}/{key}": part for key, part in found.items()}
    save_file(decoders, folder / "decoders.safetensors")


def _pose_expressions(model, size, seed, people=4, of=16):
    """People ahead, each with every one of EXPRESSIONS: a sample, a row a picture. Those of whom
    the camera has taken the clearest pictures are chosen."""
    studio, pictures = Studio(model, size, **POSES), []
    sides = [name.removesuffix("Left").removesuffix("Right") for name in model.unit_names]
    for person in range(of):
        factors = counterfactuals.draw_factors(studio, seed + 4, "test", person)
        for wanted in EXPRESSIONS.values():
            strengths = torch.tensor([[wanted.get(name, 0.0) for name in sides]])
            factors["expression"] = model.from_units(strengths)[0].numpy()
            row = counterfactuals.photograph(studio, factors)
            pictures.append(row | dict(person=np.int64(person)))
    rows = [pictures[k : k + len(EXPRESSIONS)] for k in range(0, len(pictures), len(EXPRESSIONS))]
    # Noise has edges too: smoothed pictures are compared.
    smooth = [gaussian_filter(row[0]["image"].mean(2), 2.0) for row in rows]
    edges = [np.abs(np.gradient(picture)).mean() for picture in smooth]
    chosen = sorted(np.argsort(edges)[::-1][:people])
    return counterfactuals.stack([picture for k in chosen for picture in rows[k]])


def _write_faces(stem, sample):
    """STEM.jpg, all pictures on one sheet, and STEM.safetensors, their numbers."""
    images = sample["image"].permute(0, 2, 3, 1).numpy()
    n, side = len(images), images.shape[1]
    sheet = np.zeros((-(-n // SHEET) * side, SHEET * side, 3), np.uint8)
    for i, image in enumerate(images):
        y, x = i // SHEET * side, i % SHEET * side
        sheet[y : y + side, x : x + side] = image
    stem.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(stem.with_suffix(".jpg"), quality=88, subsampling=0)
    numbers = {key: x for key, x in sample.items() if key != "image"}
    halved = {key: x.half() if x.is_floating_point() else x for key, x in numbers.items()}
    save_file({key: x.contiguous() for key, x in halved.items()}, stem.with_suffix(".safetensors"))


def read_faces(folder, name="faces"):
    """The sample `name` ("faces" or "expressions") of the package in `folder`."""
    stem = Path(folder) / name
    with reading(stem.with_suffix(".safetensors"), PACKAGE):
        numbers = load_file(stem.with_suffix(".safetensors"))
    sample = {key: x.float() if x.is_floating_point() else x for key, x in numbers.items()}
    with reading(stem.with_suffix(".jpg"), PACKAGE):
        sheet = np.asarray(Image.open(stem.with_suffix(".jpg")))
        side, n = sheet.shape[1] // SHEET, len(sample["person"])
        tiles = sheet.reshape(-1, side, SHEET, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
        images = torch.from_numpy(tiles[:n].copy()).permute(0, 3, 1, 2)
        sample["landmarks"].view(len(images), -1)  # rows are missing where it does not fit
    return sample | dict(image=images)


def sample_of(face, square, box):
    """A sample, as of `read_faces`, of one `photo.Face`, whose picture was cropped to its `box`, the
    square (S, S, 3) uint8."""
    marks = (torch.tensor(face.image_landmarks) - box[:2]) * len(square) / (box[2] - box[0])
    answer = {kind: torch.tensor(getattr(face, kind))[None] for kind in ("identity", "expression")}
    image = torch.tensor(square).permute(2, 0, 1)[None]
    return answer | dict(image=image, landmarks=marks[None])


def open_subjects(folder):
    """The subjects of the package: name -> Subject."""
    folder, faces = Path(folder), read_faces(folder)
    recogniser = Subject(RECOGNISER, Recogniser().load(weights_file()), aligned=True)
    torch.manual_seed(SEED)
    twin = Subject(TWIN, Recogniser(), aligned=True)
    calibrate(twin.network, twin.look(faces)[:128] / 255)
    end_to_end = Subject(END_TO_END, load_network(SHIPPED / "default.safetensors"))
    return {RECOGNISER: recogniser, TWIN: twin, END_TO_END: end_to_end}


# ---- decoders ------------------------------------------------------------------------------------


def fit_decoder(features, sample, model, rank, components):
    """A linear reader of identity and expression from features (n, d), in few numbers: dict of
    tensors `KIND.read` (d, rank), `KIND.spread` (rank, T) and `KIND.bias` (T,), half precision.

    A ridge probe, then cut to the `rank` directions in which its answers differ most in mm.
    """
    found, person = {}, sample["person"].numpy()
    for kind in ("identity", "expression"):
        R = losses.gram_factor(getattr(model, f"{kind}_basis")[model.region]).double().numpy()
        probe = probes.fit_probe(features, sample[kind].numpy() @ R.T, person, components)
        moved = features @ probe.weight
        mean = moved.mean(0)
        axes = np.linalg.svd(moved - mean, full_matrices=False)[2][:rank].T  # (T, rank)
        left = mean - axes @ (axes.T @ mean)  # what is cut off still has a mean
        parts = dict(
            read=probe.weight @ axes,
            spread=np.linalg.solve(R, axes).T,
            bias=np.linalg.solve(R, probe.bias + left),
        )
        found |= {
            f"{kind}.{key}": torch.from_numpy(part).half().contiguous()
            for key, part in parts.items()
        }
    return found


class Decoders:
    """What each layer remembers of a face, as coefficients: the decoders of the package."""

    def __init__(self, folder):
        path = Path(folder) / "decoders.safetensors"
        with reading(path, PACKAGE):
            self.parts = load_file(path)

    def __call__(self, name, layer, features):
        """Identity (n, K) and expression (n, L) that a layer of a subject tells of."""
        x, answers = torch.as_tensor(features), []
        for kind in ("identity", "expression"):
            read, spread, bias = (
                self.parts[f"{name}/{layer}/{kind}.{key}"].float()
                for key in ("read", "spread", "bias")
            )
            answers.append(x @ read @ spread + bias)
        return answers
