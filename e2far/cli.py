"""The command line: `e2far reconstruct photo.jpg --out faces`."""

import inspect
from functools import wraps
from typing import Annotated

import typer

from e2far import __version__
from e2far.files import EXPECTED, complain
from e2far.photo.commands import PhotoOptions, VideoOptions, reconstruct, reconstruct_video
from e2far.pipeline.commands import (
    TrainOptions,
    build_face_model,
    train,
    train_long,
)

app = typer.Typer(
    help="3D face reconstruction from one photo, after UH-E2FAR (CVPR 2017).",
    context_settings=dict(help_option_names=["-h", "--help"]),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def command(function, options=None):
    """`function` as typer calls it: an error of the input becomes one line and exit status 1.

    options: the dataclass that `function` takes instead of arguments; its fields are theirs
    """

    @wraps(function)
    def told(**given):
        try:
            return function(**given) if options is None else function(options(**given))
        except EXPECTED as error:
            complain(error)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            complain("interrupted: run the same command again to go on")
            raise typer.Exit(130) from None

    described = options or function
    told.__signature__ = inspect.signature(described)  # ty: ignore[missing-attribute]
    told.__annotations__ = described.__annotations__
    return told


def show_version(wanted: bool):
    if wanted:
        print(f"e2far {__version__}")
        raise typer.Exit()


Version = typer.Option(
    "--version", callback=show_version, is_eager=True, help="Show the version and exit."
)


@app.callback()
def show_options(version: Annotated[bool, Version] = False):
    pass


app.command()(command(reconstruct, PhotoOptions))
app.command("video")(command(reconstruct_video, VideoOptions))
app.command()(command(train, TrainOptions))
app.command()(command(build_face_model))
app.command("long", hidden=True)(command(train_long))
