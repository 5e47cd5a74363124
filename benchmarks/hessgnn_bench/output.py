"""Files that a script writes its results to, looked at before it measures for hours."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path


def output_file(text: str) -> Path:
    """Read the path of a file to write, as ``type`` of an argument of argparse.

    Nothing is made that stays, and folders that are missing are made by who writes. Only the standard library is
    imported: ``gpu.py`` installs all else later.

    Raises
    ------
    argparse.ArgumentTypeError
        When it is a folder, or no file can be written in its folder.
    """
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder: name a file in it")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return path
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be written ({error.strerror}): choose another") from error
