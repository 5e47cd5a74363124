"""Preparing a sweep: its folder, its storage, its studies. A different sweep in one of them is an error."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError
from hessgnn.experiments.folder import differences, require_same
from hessgnn.runtime.config import save
from hessgnn.sweep.config import SweepConfig
from hessgnn.sweep.storage import JOURNAL, mend_journal, storage_of, unusable, without_password
from hessgnn.sweep.tuning import create_study, tuning_study

_SETTINGS = "settings"
"""User attribute of a study: the identity of its sweep."""


def prepare(config: SweepConfig, folder: Path, alone: bool) -> None:
    """Write the settings and make the studies; two sweeps in one folder or one storage are an error.

    Parameters
    ----------
    config
        The sweep.
    folder
        Its folder.
    alone
        Whether no other process works in it, so that what a killed one left can be mended.

    Raises
    ------
    ConfigError
        When there is another sweep, or the storage cannot be used; nothing is changed then.
    """
    path = folder / "sweep.yaml"
    require_same(config, path)
    data = config.data
    store = Store.open(data.path)
    for split in (data.train, data.validation):
        store.indices(split)
    if alone and config.storage is None:  # a journal elsewhere may be in use by others
        mend_journal(folder / JOURNAL)
    attributes = store.attributes
    identity = {key: value for key, value in config.identity().items() if key != "storage"}
    identity["data"] = {"content_hash": attributes.content_hash, "split_hash": attributes.split_hash}
    try:  # an unreachable storage is told before any work
        with storage_of(config, folder) as storage:
            tuned = (tuning_study(config, architecture, storage) for architecture in config.architectures)
            for study in chain([create_study(config.name, storage)], tuned):  # none is made after one that is refused
                known = study.user_attrs.get(_SETTINGS)
                if known is None:
                    study.set_user_attr(_SETTINGS, identity)
                elif changed := differences(known, identity):
                    raise ConfigError(
                        f"the storage holds a study {study.study_name!r} with other settings ({'; '.join(changed)})",
                        where=without_password(config.storage) or folder,
                        remedy="give the sweep a new `name`, or restore the settings; the study was not changed",
                    )
    except ConfigError:
        raise
    except Exception as error:  # each storage raises errors of its own driver
        raise unusable(config, folder, error) from error
    save(config, path)
