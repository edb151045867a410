"""The command line: `e2far reconstruct photo.jpg --out faces`."""

from typing import Annotated

import typer

from e2far import __version__
from e2far.photo.commands import reconstruct, reconstruct_video
from e2far.pipeline.commands import build_face_model, race_trunks, train, train_long

app = typer.Typer(
    help="3D face reconstruction from one photo, after UH-E2FAR (CVPR 2017).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def show_version(wanted: bool):
    if wanted:
        print(f"e2far {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
):
    pass


app.command()(reconstruct)
app.command("video")(reconstruct_video)
app.command()(train)
app.command()(build_face_model)
app.command("long", hidden=True)(train_long)
app.command("trunks", hidden=True)(race_trunks)


if __name__ == "__main__":
    app()
