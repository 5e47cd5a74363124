"""Hessian errors after labelling structures that different rules selected, each with one product at the same cost.

For each seed a third of the structures of rtp-mini's training families (stationary points and frames) is drawn: the
pool. All have energies and forces, a few random ones a product ``H·v`` too. Three potentials of an architecture are
trained on that. Each rule of ``hessgnn data select`` then selects a share of the pool, with these three where it uses
models, one product of each is added, and a fresh potential is trained for the same number of steps with the same seed.
Its Hessians are compared with those of families that were not trained on.

Products are cut out of the stored Hessians, ``H v`` with random signs v; a structure has the same v whichever rule
selects it. Those of a label engine agree to about 1e-4, which is far below the errors here.

Each training is kept in a file of its own, so an interrupted study continues; trainings that are there are not
repeated.

    python benchmarks/selection.py runs/selection
    python benchmarks/selection.py runs/selection --summary benchmarks/results/selection-cpu.json
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hessgnn_bench.conditions import Conditions
from hessgnn_bench.options import Help
from hessgnn_bench.output import output_file
from rich.console import Console

from hessgnn.data.directions import Directions
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import UserError
from hessgnn.factory.selection import PRODUCT_GRADIENTS, pool_of, select
from hessgnn.leaderboard.inference import by_family, contrast, decide
from hessgnn.potentials.base import Potential
from hessgnn.potentials.saved import BEST, CONFIG, load, save_checkpoint
from hessgnn.runtime.config import load as load_config
from hessgnn.runtime.config import save as save_config
from hessgnn.runtime.files import atomic_folder, find_resource, lock_file, write_text
from hessgnn.surface.potential import PotentialSurface
from hessgnn.training.build import build
from hessgnn.training.config import RunConfig

ARCHITECTURES = ("ani", "schnet")
POOL = ("train", "nms-known", "irc-known")
"""Splits of rtp-mini that the pool is drawn from: structures of training families."""
POOL_SHARE = 1 / 3
INITIAL = 16
"""Structures of the pool that have a product before anything is selected."""
MEMBERS = 3
"""Models of the ensemble."""
VALIDATION = 24
"""Structures of a validation split, which nothing depends on: the length of a training is fixed."""
SPLITS = {"test": 124, "nms": 200}
"""Splits of other families that are evaluated, and how many of their structures, evenly spread."""
SHARES = (0.1, 0.25)
"""Shares of the pool that get a product."""
RANDOM = "random"
RULES = {
    RANDOM: ("random", False, False),
    "force": ("force", False, False),
    "force error": ("force", True, False),
    "curvature": ("curvature", True, False),
    "distance": ("distance", False, False),
    "disagreement": ("disagreement", True, False),
    "diverse disagreement": ("disagreement", True, True),
}
"""Name here -> rule of ``hessgnn data select``, whether it is given the ensemble, and whether ``--diverse``."""
NOTHING, EVERYTHING = "none", "all"
"""Trainings with the first products alone, and with a product of every structure of the pool."""


@dataclass(frozen=True)
class Training:
    """One training: which structures got a product."""

    architecture: str
    seed: int
    rule: str
    share: float

    @property
    def name(self) -> str:
        """Of its file."""
        share = f"-{100 * self.share:g}" if self.rule in RULES else ""
        return f"{self.architecture}-{self.rule.replace(' ', '-')}{share}-seed{self.seed}"


def planned(arguments: argparse.Namespace) -> Iterator[Training]:
    """Trainings in order: a share is complete for all seeds before the next begins."""
    own = [(seed, architecture) for seed in arguments.seeds for architecture in arguments.architectures]
    yield from (Training(architecture, seed, NOTHING, 0.0) for seed, architecture in own)
    for share in arguments.shares:
        for seed, architecture in own:
            yield from (Training(architecture, seed, rule, share) for rule in arguments.rules)
    yield from (Training(architecture, seed, EVERYTHING, 1.0) for seed, architecture in own)


def labelled(structure: Structure, seed: int) -> Structure:
    """Replace the Hessian by one product with random signs."""
    assert structure.hessian is not None
    rng = np.random.default_rng((seed, *structure.name.encode()))
    vectors = rng.choice((-1.0, 1.0), size=(1, len(structure), 3))
    products = (structure.hessian @ vectors.ravel()).reshape(vectors.shape)
    made = Directions.make(vectors, products, "rademacher")
    return replace(without_curvature(structure), directions=made)


def without_curvature(structure: Structure) -> Structure:
    """Keep energy and forces."""
    return replace(structure, hessian=None, hessian_asymmetry=None)


def write_pool(path: Path, seed: int, names: Sequence[str] = ()) -> Store:
    """Write the pool of a seed, with products of the first few structures and of those named, unless it is there."""
    if path.is_file():
        return Store.open(path)
    source = Store.open("rtp-mini")
    members = np.concatenate([source.indices(split) for split in POOL])
    drawn = np.random.default_rng(seed).permutation(members)[: round(POOL_SHARE * len(members))]
    known = {source.names[i] for i in drawn[:INITIAL]} | set(names)
    validation = source.indices("validation")[:: len(source.indices("validation")) // VALIDATION][:VALIDATION]

    def structures() -> Iterator[Structure]:
        for i in sorted(drawn.tolist()):
            one = replace(source[i], split="train")
            yield labelled(one, seed) if one.name in known else without_curvature(one)
        yield from (without_curvature(source[int(i)]) for i in validation)

    write_store(path, structures(), level_of_theory=source.attributes.level_of_theory)
    return Store.open(path)


def train(architecture: str, data: Path, seed: int, steps: int) -> tuple[RunConfig, Potential, float]:
    """Train for a fixed number of steps: the configuration, the averaged weights, and processor seconds."""
    content = load_config(RunConfig, find_resource(f"configs/{architecture}.yaml")).model_dump(mode="json")
    content["data"] |= {"path": str(data)}
    content["loss"]["probes"] |= {"kind": "stored", "number": 1, "every": 1}
    schedule = {"kind": "cosine", "lr": content["training"]["schedule"]["lr"], "warmup": 100}
    content["training"] |= {"steps": steps, "schedule": schedule, "seed": seed, "threads": 1, "device": "cpu"}
    setup = build(RunConfig.model_validate(content))
    started = time.process_time()
    for number in range(steps):
        setup.step(number)
    return setup.config, setup.average.potential, time.process_time() - started


def ensemble(folder: Path, architecture: str, seed: int, steps: int) -> list[Potential]:
    """Models of the pool with its first products; run folders, which are made unless they are there."""
    found = []
    for member in range(MEMBERS):
        run = folder / f"{architecture}-seed{seed}-member{member}"
        if not run.is_dir():
            data = folder / f"pool-seed{seed}.h5"
            write_pool(data, seed)
            config, potential, seconds = train(architecture, data, 1000 * member + seed, steps)
            with atomic_folder(run) as made:
                save_config(config, made / CONFIG)
                save_checkpoint(made / BEST, {"potential": potential.state_dict()})
                write_text(made / "seconds.json", json.dumps(seconds))
        found.append(load(run).double())
    return found


def errors_of(potential: Potential) -> dict[str, dict[str, dict[str, float]]]:
    """Mean square errors of each structure: split -> name -> ``hessian``, (eV/Å²)², and ``forces``, (eV/Å)²."""
    store, surface = Store.open("rtp-mini"), PotentialSurface(potential)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for split, number in SPLITS.items():
        indices = store.indices(split)
        chosen = [store[int(i)] for i in indices[np.linspace(0, len(indices) - 1, number).astype(int)]]
        found[split] = {}
        for one, answer in zip(chosen, surface.answers(chosen), strict=True):
            assert one.hessian is not None
            assert one.forces is not None
            pairs = {"hessian": (answer.hessian, one.hessian), "forces": (answer.forces, one.forces)}
            found[split][one.name] = {what: float(np.square(a - b).mean()) for what, (a, b) in pairs.items()}
    return found


def run(folder: Path, training: Training, steps: int) -> dict[str, Any]:
    """Select, label, train and evaluate."""
    seed, models = training.seed, ensemble(folder, training.architecture, training.seed, steps)
    pool_file = folder / f"pool-seed{seed}.h5"
    pool = write_pool(pool_file, seed)
    result: dict[str, Any] = asdict(training) | {"steps": steps, "pool": len(pool.indices("train"))}
    if training.rule == NOTHING:  # the first member is what would be trained
        return result | {"selected": [], "errors": errors_of(models[0])}
    started = time.process_time()
    if training.rule == EVERYTHING:
        names = [pool.names[i] for i in pool.indices("train")]
    else:
        rule, with_models, diverse = RULES[training.rule]
        number = round(training.share * result["pool"])
        chosen = pool_of(pool, "train", number=number, seed=seed, models=models if with_models else ())
        names = [pool.names[i] for i in select(rule, chosen, diverse=diverse).indices]
    result |= {"selected": names, "seconds_of_selection": time.process_time() - started}
    data = folder / f"{training.name}.h5"
    store = write_pool(data, seed, names)
    wanted = set(names)
    own = [i for i in store.indices("train") if store.names[i] in wanted]
    result["families"] = len({store.groups[i] for i in own})
    result["atoms"] = float(store.n_atoms[own].mean())
    result["kinds"] = Counter(store.kinds[i] for i in own)
    _, potential, seconds = train(training.architecture, data, seed, steps)
    data.unlink()
    return result | {"seconds": seconds, "errors": errors_of(potential)}


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Errors of each rule, and their ratios to those of random choice, over families and seeds."""
    family = dict(zip((store := Store.open("rtp-mini")).names, store.groups, strict=True))
    rows: list[dict[str, Any]] = []
    contrasts = []
    kept = {(r["architecture"], r["rule"], r["share"], r["seed"]): r for r in runs}
    for architecture, rule, share in dict.fromkeys(key[:3] for key in kept):
        own = {seed: one for (*key, seed), one in kept.items() if key == [architecture, rule, share]}
        for split in SPLITS:
            row: dict[str, Any] = {"architecture": architecture, "rule": rule, "share": share, "split": split}
            row["seeds"] = sorted(own)
            row["selected"] = len(next(iter(own.values()))["selected"])
            for what in ("hessian", "forces"):
                row[f"{what}_rmse"] = [rmse(own[seed], split, what) for seed in row["seeds"]]
            for key in ("families", "atoms", "seconds_of_selection"):
                values = [one[key] for one in own.values() if key in one]
                row[key] = float(np.mean(values)) if values else None
            both = [s for s in row["seeds"] if rule in RULES and (architecture, RANDOM, share, s) in kept]
            row["contrast"], row["rmse_over_random"] = None, None
            if rule != RANDOM and both:
                pairs = [(own[s], kept[architecture, RANDOM, share, s]) for s in both]
                row["rmse_over_random"] = [rmse(one, split) / rmse(other, split) for one, other in pairs]
                families = sorted({family[name] for name in own[both[0]]["errors"][split]})
                ratios = [log_ratio(one, other, split, family, families) for one, other in pairs]
                if (found := contrast(np.array(ratios))) is not None:
                    row["contrast"] = asdict(found)
                    contrasts.append((row, found))
            rows.append(row)
    decided = decide([found for _, found in contrasts], ["lower"] * len(contrasts))
    for (row, _), decision in zip(contrasts, decided, strict=True):
        row["verdict"] = None if decision is None else decision.verdict
        row["p"] = None if decision is None else decision.p
    return {"rows": rows}


def rmse(run: Mapping[str, Any], split: str, what: str = "hessian") -> float:
    """Over all structures of a split, which the largest errors decide."""
    return float(np.sqrt(np.mean([one[what] for one in run["errors"][split].values()])))


def log_ratio(
    one: Mapping[str, Any], other: Mapping[str, Any], split: str, family: Mapping[str, str], families: Sequence[str]
) -> np.ndarray:
    """Logarithm of the ratio of the Hessian RMSEs of each family, ``(families,)``."""
    squares = [
        by_family({name: e["hessian"] for name, e in run["errors"][split].items()}, family, families)
        for run in (one, other)
    ]
    return (np.log(squares[0]) - np.log(squares[1])) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("folder", type=Path, help="of the trainings")
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, help="names")
    parser.add_argument("--rules", nargs="+", default=tuple(RULES), choices=tuple(RULES), help="of selection")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the pool")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="a pool and its trainings each")
    parser.add_argument("--steps", type=int, default=1200, help="of a training")
    parser.add_argument("--summary", type=output_file, help="write the comparison of the trainings that are there")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    console, folder = Console(width=150), arguments.folder
    if arguments.summary:
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*-seed*.json"))]
        if not runs:
            parser.exit(2, f"error: {folder} holds no trainings (hint: run without --summary)\n")
        conditions = Conditions.prepare("cpu", 1).model_dump(mode="json")
        steps = sorted({one["steps"] for one in runs})
        record = {"conditions": conditions, "steps": steps, "pool": runs[0]["pool"], "initial": INITIAL}
        record |= {"members": MEMBERS, "gradients": PRODUCT_GRADIENTS}
        record |= {"finished": len(runs), "planned": len(list(planned(arguments)))}
        write_text(arguments.summary, json.dumps(record | summary(runs), indent=1) + "\n")
        return
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    busy = UserError("another process runs this study", where=folder, hint="wait until it has ended")
    with lock_file(folder / ".lock", busy):
        for training in planned(arguments):
            path = folder / f"{training.name}.json"
            if path.is_file():
                continue
            result = run(folder, training, arguments.steps)
            write_text(path, json.dumps(result, indent=1) + "\n")
            text = ", ".join(f"{split} {rmse(result, split):.3f}" for split in SPLITS)
            console.print(f"{training.name}: Hessian RMSE {text} eV/Å²", soft_wrap=True)


if __name__ == "__main__":
    main()
