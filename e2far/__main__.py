"""`python -m e2far` is the command line."""

from e2far.cli import app

app()
