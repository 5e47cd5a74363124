"""Real outputs of Gaussian, read by the tests where they lie beside the checkout."""

import re
from pathlib import Path

import numpy as np

from hessgnn.data.formats.registry import structures

LOGS = sorted((Path(__file__).resolve().parents[1].parent / "shared" / "reference" / "gaussian").glob("*"))
REASON = "the reference outputs of Gaussian are not beside this checkout"


def read_gaussian(path):
    """The structure of a frequency job with its Hessian, and the frequencies that its log prints."""
    (job,) = structures("gaussian", path)
    text = path.read_text()
    lines = re.findall(r"Frequencies --([ \d.-]+)", text[text.rindex("Harmonic frequencies (cm**-1)") :])
    return job, np.array([float(value) for line in lines for value in line.split()])
