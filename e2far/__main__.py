"""`e2far` and `python -m e2far`: the command line, whose imports take half a second."""

import sys


def main():
    try:
        from e2far.cli import app

        app()
    except KeyboardInterrupt:  # before `cli.command` could tell
        sys.exit(130)


if __name__ == "__main__":
    main()
