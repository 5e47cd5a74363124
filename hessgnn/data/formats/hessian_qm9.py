"""Hessian QM9 (figshare 26363959): a Hugging Face ``DatasetDict`` on disk, read with pyarrow; eV and Å.

N. J. Williams et al., Sci. Data (2025), arXiv 2408.08006. One folder for each environment: vacuum, and three solvents
by a continuum model (SMD), which are other potential energy surfaces.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hessgnn.data.formats.common import hessian_matrix, known, optional, scalar
from hessgnn.data.formats.registry import Entry, Record, reader
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError

LEVEL = "wB97X/6-31G(d)"


@reader("hessian-qm9")
def read(source: Path) -> Iterator[Entry]:
    """List the molecules of one environment's folder, or of all, each then being a split of its own."""
    arrow = optional("pyarrow")
    listing = source / "dataset_dict.json"
    environments = json.loads(listing.read_text())["splits"] if listing.is_file() else [""]
    for environment in environments:
        for shard in _shards(source / environment):
            try:
                with arrow.memory_map(str(shard)) as file, arrow.ipc.open_stream(file) as stream:
                    for batch in stream:
                        batch.validate(full=True)  # offsets that lead nowhere kill the process
                        yield from _of_batch(batch, shard, environment)
            except (arrow.ArrowInvalid, OSError) as error:
                raise DataError(
                    "is truncated, or is not an Arrow stream", where=shard, hint="fetch it again"
                ) from error


def _shards(folder: Path) -> list[Path]:
    state = folder / "state.json"
    if not state.is_file():
        raise DataError("has no state.json", where=folder, hint="give the folder that datasets saved to disk")
    return [folder / item["filename"] for item in json.loads(state.read_text())["_data_files"]]


def _of_batch(batch: Any, shard: Path, environment: str) -> Iterator[Entry]:
    solvent = environment or shard.parent.name
    level = f"{LEVEL} SMD({solvent})" if solvent in ("thf", "toluene", "water") else LEVEL
    missing = [key for key in ("atomic_numbers", "positions", "label") if key not in batch.schema.names]
    if missing:
        raise DataError(f"has no column {', '.join(missing)}", where=shard, hint="check the format")
    labels = batch.column("label")
    for i in range(batch.num_rows):
        label = str(labels[i])

        def load(i: int = i, label: str = label) -> Record:
            row = {key: batch.column(key)[i].as_py() for key in batch.schema.names if key in _COLUMNS}
            structure = Structure(
                numbers=np.array(row["atomic_numbers"]),
                positions=np.array(row["positions"]),
                energy=scalar(row.get("energy")),
                forces=known(row.get("forces")),
                hessian=hessian_matrix(row.get("hessian"), len(row["atomic_numbers"])),
                name=f"{environment}/{label}" if environment else label,
                group=label,
                kind="minimum",
                split=environment or "train",
            )
            return Record(structure, level)

        yield Entry(f"{shard}, {label}", load)


_COLUMNS = ("atomic_numbers", "positions", "energy", "forces", "hessian")
