"""Write docs/results/data.md: what the data sets of this project hold, and what they cost.

A data set is described once, into ``benchmarks/results/data-NAME.json``; the page is written from these files.

    python benchmarks/describe_data.py rtp-mini /some/where/rtp-10k.h5
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from write_tables import Lines, table

from hessgnn.data.kinds import STATIONARY
from hessgnn.data.store.store import Store
from hessgnn.data.store.summary import summarise
from hessgnn.runtime.files import write_text

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "results" / "data.md"

HEAD = """# The data sets

Written by `python benchmarks/describe_data.py` from the files in `benchmarks/results`; `hessgnn data info` prints the
same of any set. How they are made: [data](../data.md)."""


def describe(store: Store) -> dict[str, Any]:
    """Everything that the page says of a store that the factory wrote."""
    told = yaml.safe_load(store.attributes.provenance)
    tasks = told["tasks"].values()
    reactions = [facts for facts in tasks if "barrier" in facts]
    stationary = sum(kind in STATIONARY for kind in store.kinds)
    seconds = sum(facts["seconds"] for facts in tasks)
    return {
        "structures": len(store),
        "stationary": stationary,
        "megabytes": round(store.path.stat().st_size / 1e6, 2),
        "level_of_theory": store.attributes.level_of_theory,
        "content_hash": store.attributes.content_hash,
        "split_hash": store.attributes.split_hash,
        "splits": {split: summary.to_dict() for split, summary in summarise(store).items()},
        "families": dict(sorted(Counter(facts["family"] for facts in reactions).items())),
        "barriers": np.quantile([facts["barrier"] for facts in reactions], [0, 0.05, 0.5, 0.95, 1]).round(3).tolist(),
        "reactions_failed": sum("/" in name and name.count("/") == 1 for name in told["failed"]),
        "failed": told["failed"],
        "gradients": sum(facts["gradients"] for facts in tasks),
        "seconds": round(seconds),
    }


def section(name: str, found: dict[str, Any]) -> Lines:
    """One data set."""
    families = ", ".join(f"{family} {number}" for family, number in found["families"].items())
    low, _, middle, _, high = found["barriers"]
    yield f"\n## {name}\n"
    yield (
        f"{found['structures']:,} structures at {found['level_of_theory']}, {found['stationary']:,} of them stationary"
        f" points, {sum(found['families'].values())} verified reactions; {found['megabytes']} MB. Content"
        f" `{found['content_hash'][:16]}`, splits `{found['split_hash'][:16]}`."
    )
    yield f"\nReactions: {families}. Barriers {low:.2f} to {high:.2f} eV, median {middle:.2f}."
    rows = []
    for split, one in found["splits"].items():
        kinds = ", ".join(f"{kind} {number}" for kind, number in one["kinds"].items())
        elements = ", ".join(f"{symbol} {number}" for symbol, number in one["elements"].items())
        rows.append(
            [split, str(one["structures"]), kinds, str(one["groups"]), "…".join(map(str, one["atoms"])), elements]
        )
    yield from table(["split", "structures", "kinds", "compositions", "atoms", "structures with"], rows)
    rows = []
    for split, one in found["splits"].items():
        heights = " / ".join(f"{height:.2f}" for height in one["heights"])
        noise = [f"{entry['high']:.1e}" for entry in one["noise"][:3]]
        forces = f"{one['rms_forces']:.2g} / {one['max_force']:.2g}"
        rows.append([split, heights, forces, f"{one['rms_hessian']:.2f}", *noise])
    titles = ["split", "energy\\* / eV", "force, RMS / largest / eV/Å", "Hessian, RMS / eV/Å²"]
    yield from table([*titles, "\\|H − Hᵀ\\|", "\\|Σ H\\|", "\\|H u + ω × F\\|"], rows)
    yield "\n\\* Quantiles of 5, 50 and 95 %: of displaced frames above what they were displaced from, of others above"
    yield "the lowest structure of their composition. The last three columns are label noise, eV/Å²: 95 % of structures"
    yield "lie below."
    yield (
        f"\n**Cost.** {found['gradients']:,} gradients. What succeeded took {found['seconds'] / 60:.0f} minutes one"
        f" after the other, so about {found['seconds'] / 120:.0f} minutes by two processes on two cores, which did"
        f" other work at the same time. Failed: {len(found['failed'])}."
    )
    for what, reason in found["failed"].items():
        yield f"- {what}: {reason}"


def page(results: Path = RESULTS) -> str:
    """The whole page."""
    lines = [HEAD]
    for path in sorted(results.glob("data-*.json"), key=lambda one: (one.stem != "data-rtp-mini", one.stem)):
        lines += section(path.stem.removeprefix("data-"), json.loads(path.read_text(encoding="utf-8")))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", help="sets to describe; without any only the page is written again")
    for name in parser.parse_args().data:
        store = Store.open(name)
        text = json.dumps(describe(store), indent=1, ensure_ascii=False)
        write_text(RESULTS / f"data-{store.path.stem}.json", text + "\n")
    write_text(PAGE, page())


if __name__ == "__main__":
    main()
