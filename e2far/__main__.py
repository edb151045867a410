"""`python -m e2far` is the command line."""

import runpy

runpy.run_module("e2far.cli", run_name="__main__")
