"""Which structures of a split have curvature labels that a run can use: counts, batches composed by them, and words."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hessgnn.curvature.probes import PROBES
from hessgnn.curvature.probes.stored import Stored
from hessgnn.data.directions import UNBIASED
from hessgnn.data.plan import ComposedPlan
from hessgnn.data.store.columns import ragged
from hessgnn.data.store.layout import decoded
from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError, TrainingError
from hessgnn.training.config import RunConfig
from hessgnn.training.loss_config import LossConfig

Indices = NDArray[np.int64]


def usable(store: Store, kind: str) -> NDArray[np.bool_]:
    """Which structures of a store have a curvature label that a kind of probes compares with, ``(n_structures,)``."""
    known = (torch.from_numpy(there) for there in (store.has_hessian, store.n_directions > 0))
    return PROBES[kind]().labelled(*known).numpy()


def direction_kinds(store: Store, indices: Indices) -> Counter[str]:
    """How the stored directions of some structures were drawn: kind -> number of them, the most frequent first."""
    if not store.n_directions[indices].any():
        return Counter()
    places = ragged(store.first_direction[indices], store.n_directions[indices])
    names, counts = np.unique(store.columns.array("direction_kind")[places], return_counts=True)
    found = Counter(
        {
            decoded(name, "direction_kind", store.path): int(count)
            for name, count in zip(names.tolist(), counts.tolist(), strict=True)
        }
    )
    return Counter(dict(found.most_common()))


def repeated(indices: Indices, labelled: NDArray[np.bool_], share: float | None) -> Indices:
    """Repeat the structures that have a curvature label until they are a share of all.

    Among many frames without one, a batch would hardly ever hold one.

    Parameters
    ----------
    indices
        Structures of an epoch.
    labelled
        ``(len(indices),)``: which of them have one.
    share
        Between 0 and 1; nothing is repeated if absent.

    Returns
    -------
    ndarray of int64
        The indices, then the repetitions, all as often as each other.
    """
    having = indices[labelled]
    if share is None or not len(having):
        return indices
    times = math.ceil(share / (1 - share) * (len(indices) - len(having)) / len(having) - 1e-9)
    return np.concatenate([indices, np.tile(having, max(0, times - 1))])


def composed(labelled: NDArray[np.bool_], config: RunConfig) -> ComposedPlan:
    """Plan batches with so many structures with and without a curvature label (``training.composition``).

    Parameters
    ----------
    labelled
        ``(n_structures,)``: which of the training structures have one.

    Raises
    ------
    ConfigError
        When there are none of one sort.
    """
    sizes = config.training.composition
    assert sizes is not None
    groups = {"curvature": np.flatnonzero(labelled), "other": np.flatnonzero(~labelled)}
    for key, members in groups.items():
        if not len(members):
            having = "has" if key == "curvature" else "lacks"
            raise ConfigError(
                f"no structure of split {config.data.train!r} {having} a curvature label that loss.probes.kind "
                f"{config.loss.probes.kind!r} uses",
                where=f"key 'training.composition.{key}'",
                hint="leave training.composition out",
            )
    wanted = (sizes.curvature, sizes.other)
    # More than there are would only be computed twice in each batch.
    pairs = [(members, min(most, len(members))) for members, most in zip(groups.values(), wanted, strict=True)]
    return ComposedPlan(pairs, config.training.seed)


def epoch_steps(config: RunConfig, store: Store) -> int:
    """Steps of an epoch, the fewest of them where batches are limited by atoms or edges."""
    train = store.indices(config.data.train)
    labelled = usable(store, config.loss.probes.kind)[train]
    if config.training.composition is not None:
        return len(composed(labelled, config))
    number = len(repeated(train, labelled, config.training.hessian_share))
    return -(-number // config.training.batch_size)


def require_labels(config: RunConfig, store: Store, others: Sequence[tuple[RunConfig, Store]] = ()) -> None:
    """Refuse a term that has a weight and finds no label, before the first step.

    ``others`` are other stores that the run is also trained on, each with the configuration as if the run were on it
    alone.

    Raises
    ------
    TrainingError
        When the loss weighs a label that no training structure has, or the score one of the validation.
    ConfigError
        When the function of the Hessian's errors does not suit the stored directions.
    """
    require_validated(config, store)
    if not config.training.steps:
        return
    all_of_them = [(config, store), *others]
    split, kind = config.data.train, config.loss.probes.kind
    none = f"no structure of split {split!r}" if not others else "no training structure of the stores"
    trained = [(one, one.indices(view.data.train)) for view, one in all_of_them]
    add = "merge the set with structures that have them, or compute them: hessgnn data label --energy-forces"
    hints = {"energy": add, "forces": f"set loss.forces=0, or {add}"}
    for name, weight in {"energy": 1.0, "forces": config.loss.forces}.items():
        if weight and not any(getattr(one, f"has_{name}")[train].any() for one, train in trained):
            raise TrainingError(
                f"the loss weighs {name} but {none} has that label",
                where=store.path,
                hint=hints[name],
            )
    if not config.loss.hessian:
        return
    if not any(usable(one, kind)[train].any() for one, train in trained):
        stored = sum(int((one.n_directions[train] > 0).sum()) for one, train in trained)
        lacking, hint = "that label", "set loss.hessian=0, or add the labels"
        if stored:
            lacking = f"a Hessian: {stored} have products with stored directions instead"
            hint = "set loss.probes.kind=stored, or loss.hessian=0"
        raise TrainingError(f"the loss weighs hessian but {none} has {lacking}", where=store.path, hint=hint)
    if config.loss.hessian_function != "squared" and PROBES[kind].whole_rows is None:
        for one, train in trained:
            _require_rows(config.loss, one, train)


def require_validated(config: RunConfig, store: Store) -> None:
    """Refuse a score without the Hessian error that it weighs, or without any error: the latter is always infinite."""
    split, weights = config.data.validation, config.validation.weights
    known = {"hessian": store.has_curvature, "forces": store.has_forces}
    weighed = [name for name, weight in weights.items() if weight]
    lacking = [name for name in weighed if not known.get(name, store.has_energy)[store.indices(split)].any()]
    if "hessian" not in lacking and lacking != weighed:
        return
    name = "hessian" if "hessian" in lacking else lacking[0]
    raise TrainingError(
        f"validation.weights weighs {name} but no structure of split {split!r} has that label",
        where=store.path,
        hint=f"set validation.weights.{name}=0, or add the labels" if len(weighed) > 1 else "add the labels",
    )


def _require_rows(loss: LossConfig, store: Store, train: Indices) -> None:
    """Refuse stored directions that are not all unit vectors where each entry of a row counts for itself."""
    kinds = direction_kinds(store, train)
    fresh = int((store.has_hessian & (store.n_directions == 0))[train].sum())
    others = [f"{number} {kind}" for kind, number in kinds.items() if kind != "rows"]
    others += [f"random signs for {fresh} structures that have a Hessian only"] if fresh else []
    if others:
        raise ConfigError(
            f"{loss.hessian_function!r} needs whole rows, and the stored directions are not all rows: "
            f"{', '.join(others)}",
            where="key 'loss.hessian_function'",
            hint="use hessian_function: squared",
        )


def warn_of_unused(config: RunConfig, store: Store, *, others_have_directions: bool = False) -> None:
    """Warn of curvature labels that the loss does not use, and of a kind of probes that finds none of its own.

    That kind may be meant for other stores of the run, if these have directions.
    """
    loss, split, train = config.loss, config.data.train, store.indices(config.data.train)
    if not loss.hessian:
        return
    unused = int((store.has_curvature & ~usable(store, loss.probes.kind))[train].sum())
    if unused:
        warnings.warn(
            f"{unused} structures of split {split!r} have products but no Hessian, and loss.probes.kind "
            f"{loss.probes.kind!r} does not use products. Hint: set loss.probes.kind=stored",
            stacklevel=3,
        )
    if others_have_directions or not _reads_directions(loss.probes.kind):
        return
    if not store.n_directions[train].any():
        warnings.warn(
            f"no structure of split {split!r} has stored directions: loss.probes.kind {loss.probes.kind!r} draws "
            f"random signs for the {int(store.has_hessian[train].sum())} that have a Hessian. Hint: set "
            "loss.probes.kind=rademacher",
            stacklevel=3,
        )


def describe(config: RunConfig, store: Store, *, validated: bool = True) -> list[str]:
    """Say in a few lines which curvature labels training and validation split have and what they are used for."""
    kinds = direction_kinds(store, store.indices(config.data.train))
    lines = [_counted(store, config.data.train, kinds)]
    unknown = [kind for kind in kinds if kind not in UNBIASED]
    if unknown and config.loss.hessian and _reads_directions(config.loss.probes.kind):
        lines.append(
            f"directions of kind {', '.join(unknown)} have no known distribution: they estimate the mean square "
            "Hessian error as if the error along all other directions were as large as along them"
        )
    if config.training.composition is not None:
        lines.append(_composition(config, store))
    if not validated:
        return lines
    validation = store.indices(config.data.validation)
    if config.validation.compares_hessians and store.has_curvature[validation].any():
        lines.append(_validated(config, store, validation))
    return lines


def _counted(store: Store, split: str, kinds: Counter[str]) -> str:
    """How many structures of a split have which curvature label; ``kinds`` are those of its directions."""
    indices = store.indices(split)
    has_hessian, numbers = store.has_hessian[indices], store.n_directions[indices]
    has_directions = numbers > 0
    text = f"{split}: {len(indices)} structures, {int(has_hessian.sum())} with a Hessian"
    if has_directions.any():
        few, many = int(numbers[has_directions].min()), int(numbers.max())
        each = f"{many} each" if few == many else f"{few} to {many} each"
        drawn = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        text += f", {int(has_directions.sum())} with products ({each}: {drawn})"
        if both := int((has_hessian & has_directions).sum()):
            text += f", {both} with both"
    return text


def _composition(config: RunConfig, store: Store) -> str:
    """What each batch holds, and what an epoch is."""
    plan = composed(usable(store, config.loss.probes.kind)[store.indices(config.data.train)], config)
    curved, others = plan.plans
    passes = [f"{one.epochs(len(plan)):.3g}" for one in plan.plans]
    return (
        f"each batch: {curved.batch_size} structures with a curvature label and {others.batch_size} without; an epoch "
        f"is {len(plan)} steps: {passes[0]} passes through the former and {passes[1]} through the latter"
    )


def _reads_directions(kind: str) -> bool:
    return issubclass(PROBES[kind], Stored)


def _validated(config: RunConfig, store: Store, indices: Indices) -> str:
    """What the Hessian error of the validation is made of."""
    labelled = usable(store, config.validation.probes or "full")[indices]
    products = int((store.has_curvature[indices] & ~labelled).sum())
    counted = {_COMPARED.get(config.validation.hessian, "probes"): int(labelled.sum())}
    counted["all their stored products"] = products
    parts = [f"{number} by {how}" for how, number in counted.items() if number]
    return f"{config.data.validation}: Hessian error of structures: {', '.join(parts)}"


_COMPARED = {
    "full": "their Hessians",
    "probes": "fixed probes of their Hessians",
    "stored": "their stored products, or by fixed probes where they have none",
}
