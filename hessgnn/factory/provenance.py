"""What the provenance of a labelled set says of its labels."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import yaml

from hessgnn.data.store.store import Store


def records_of(provenance: str) -> dict[str, Any]:
    """Records of a provenance that is a mapping in YAML; none of any other."""
    with suppress(yaml.YAMLError):
        if isinstance(told := yaml.safe_load(provenance), dict):
            return told
    return {}


def labelled_records(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Records of :class:`Labelling` in a provenance, the last one first."""
    return [told[key] for key in reversed(told) if str(key).startswith("labelled") and isinstance(told[key], dict)]


def relabelled(store: Store) -> str:
    """Provenance of structures whose labels were dropped."""
    facts = {"level_of_theory": store.attributes.level_of_theory, "content_hash": store.attributes.content_hash}
    before = {"structures": {"file": store.path.name} | facts | {"provenance": store.attributes.provenance}}
    return yaml.safe_dump(before, sort_keys=False, allow_unicode=True)


def extended(provenance: str, record: dict[str, Any]) -> str:
    """Provenance with one record more; as YAML where it is a mapping, else below a key of its own."""
    told = records_of(provenance)
    if provenance and not told:
        return yaml.safe_dump({"labelled": record, "provenance": provenance}, sort_keys=False, allow_unicode=True)
    number = len(labelled_records(told))
    key = f"labelled-{number + 1}" if number else "labelled"
    added = yaml.safe_dump({key: record}, sort_keys=False, allow_unicode=True)
    return f"{provenance.rstrip()}\n{added}" if provenance else added
