"""`e2far` and `python -m e2far`: the command line, whose imports take half a second."""

import sys
from importlib import import_module


def main():
    sys.stdout.reconfigure(errors="backslashreplace")  # ty: ignore[missing-union-attribute]
    try:  # Linux has names that are no text
        import_module("e2far.cli").app()
    except KeyboardInterrupt:  # before `cli.command` could tell
        sys.exit(130)


if __name__ == "__main__":
    main()
