"""Error of ANI's Hessians away from minima against the width of its Gaussians.

    python benchmarks/ani_gaussians.py ani_gaussians.json

Trains ANI with and without Hessians on the minima of ``rtp-mini``, once with the environment vectors of ANI-1x and
with wider Gaussians, and prints the Hessian error on the displaced frames. The weights of the loss are the paper's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from hessgnn.benchmark.evaluate import evaluate
from hessgnn.training.config import RunConfig
from hessgnn.training.trainer import train

WIDTHS = {  # (radial_eta, angular_eta) in Å⁻², angular_zeta
    "ANI-1x": (16.0, 8.0, 32.0),
    "wider radial": (4.0, 8.0, 32.0),
    "wider radial and angular": (4.0, 2.0, 8.0),
    "wider still": (2.0, 1.0, 4.0),
}


def hessian_error(widths: tuple[float, float, float], hessian: float, seed: int, steps: int) -> float:
    """Hessian RMSE on the displaced frames, eV/Å²."""
    radial_eta, angular_eta, angular_zeta = widths
    potential = {"radial_eta": radial_eta, "angular_eta": angular_eta, "angular_zeta": angular_zeta}
    config = RunConfig.model_validate(
        {
            "potential": {"name": "ani", **potential},
            "loss": {"forces": 0.30, "hessian": hessian},
            "training": {"steps": steps, "seed": seed, "threads": 1, "schedule": {"warmup": 20}},
            "validation": {"every": 200, "hessian": "probes"},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        train(config, run)
        error = evaluate(run, splits=["nms"]).metrics["nms"]["hessian_rmse"].value
    assert error is not None
    return error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON file")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    rows = []
    print(
        "| Gaussians | eta radial, angular; zeta | seed | E-F | E-F-H | ratio |\n|---|---|---|---|---|---|", flush=True
    )
    for name, widths in WIDTHS.items():
        for seed in options.seeds:
            without, with_hessian = (hessian_error(widths, weight, seed, options.steps) for weight in (0.0, 0.09))
            rows.append({"gaussians": name, "widths": widths, "seed": seed, "E-F": without, "E-F-H": with_hessian})
            numbers = f"{without:.2f} | {with_hessian:.2f} | {with_hessian / without:.3f}"
            print(f"| {name} | {', '.join(f'{w:g}' for w in widths)} | {seed} | {numbers} |", flush=True)
    options.output.write_text(json.dumps({"steps": options.steps, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
