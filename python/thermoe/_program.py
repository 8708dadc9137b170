"""The command `thermoe`: becomes the program that the wheel carries."""

import os
import pathlib
import sys


def main():
    program = pathlib.Path(__file__).resolve().parent / "bin" / "thermoe"
    try:
        os.execv(program, ["thermoe", *sys.argv[1:]])
    except OSError as error:
        sys.exit(f"thermoe: {program}: {error.strerror}: install the package anew")
