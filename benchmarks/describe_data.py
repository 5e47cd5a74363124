"""Describe data sets that the factory built: what they contain, and what they cost.

Each description is stored in ``benchmarks/results/data-NAME.json``; ``render_pages.py`` makes the pages from it.

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

from hessgnn.data.store.families import familiar
from hessgnn.data.store.store import Store
from hessgnn.data.store.summary import summarise
from hessgnn.data.structure import STATIONARY
from hessgnn.runtime.files import write_text

RESULTS = Path(__file__).parent / "results"


def product_errors(store: Store) -> dict[str, Any]:
    """How far products of differences are from those of the Hessian, where a structure has both.

    ``relative``: root mean square over that of the product, and ``over_stored``: over the stored error; 5, 50 and 95 %.
    """
    relative: list[float] = []
    over: list[float] = []
    for structure in (store[int(i)] for i in np.flatnonzero(store.has_hessian & (store.n_directions > 0))):
        assert structure.hessian is not None
        assert structure.directions is not None
        vectors, products = structure.directions.vectors, structure.directions.products
        truth = (vectors.reshape(len(vectors), -1) @ structure.hessian).reshape(products.shape)
        off, size = (np.sqrt(np.square(one).mean((1, 2))) for one in (products - truth, truth))
        relative += (off / size).tolist()
        over += (off / structure.directions.errors).tolist()
    stored = np.concatenate([one.directions.errors for one in store if one.directions is not None])
    quantiles = {"relative": np.array(relative), "over_stored": np.array(over), "stored": stored}
    return {"number": len(relative)} | {
        key: [float(f"{value:.3g}") for value in np.quantile(values, [0.05, 0.5, 0.95])]
        for key, values in quantiles.items()
    }


def describe(store: Store) -> dict[str, Any]:
    """Everything that the page says of a store that the factory wrote."""
    told = yaml.safe_load(store.attributes.provenance)
    tasks = told["tasks"].values()
    reactions = [facts for facts in tasks if "barrier" in facts]
    of_group = Counter(group for group, kind in zip(store.groups, store.kinds, strict=True) if kind in STATIONARY)
    largest, points = of_group.most_common(1)[0]
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
        "split_by": store.attributes.split_by,
        "groups": {
            "number": len(set(store.groups)),
            "largest": largest,
            "largest_structures": store.groups.count(largest),
            "largest_stationary": points,
        },
        "familiar": familiar(store),
        "families": dict(sorted(Counter(facts["family"] for facts in reactions).items())),
        "barriers": _quantiles([facts["barrier"] for facts in reactions]),
        "reactions_failed": sum("/" in name and name.count("/") == 1 for name in told["failed"]),
        "failed": told["failed"],
        "gradients": sum(facts["gradients"] for facts in tasks),
        "seconds": round(seconds),
        "labelled": {key: told[key]["cost"] for key in told if key.startswith("labelled")},
        "products": product_errors(store) if store.n_directions.any() else None,
    }


def _quantiles(values: list[float]) -> list[float]:
    return np.quantile(values, [0, 0.05, 0.5, 0.95, 1]).round(3).tolist() if values else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="sets to describe")
    for name in parser.parse_args().data:
        store = Store.open(name)
        text = json.dumps(describe(store), indent=1, ensure_ascii=False)
        write_text(RESULTS / f"data-{store.path.stem}.json", text + "\n")


if __name__ == "__main__":
    main()
