"""Where trials are kept: a journal file, a database, or a proxy in front of one; and the studies in it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import DatabaseError, IntegrityError

from hessgnn.data.store import Store
from hessgnn.errors import ConfigError
from hessgnn.experiments.folder import differences, require_same
from hessgnn.runtime.config import save
from hessgnn.runtime.imports import require
from hessgnn.sweep.config import Subject, SweepConfig

JOURNAL = "study.journal"
"""In the sweep's folder, where no storage is named."""
_SETTINGS = "settings"
"""User attribute of a study: the identity of its sweep."""
ATTEMPTS, PAUSE = 20, 0.2
"""How often a database whose tables another process is making is tried, and seconds between."""


def journal_path(config: SweepConfig, folder: Path) -> Path | None:
    """Return the journal file of a sweep, or ``None`` where a database keeps its trials."""
    if config.storage is None:
        return folder / JOURNAL
    scheme, _, rest = config.storage.partition(":")
    return Path(rest.removeprefix("//")) if scheme == "journal" else None


def open_storage(config: SweepConfig, folder: Path) -> BaseStorage:
    """Open the storage of a sweep for the threads of this process; other processes and machines open it themselves.

    Raises
    ------
    ConfigError
        When it cannot be reached or is none.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = config.storage or ""
    try:
        if (journal := journal_path(config, folder)) is not None:
            journal.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(journal)))
        if url.startswith("grpc://"):
            require("grpc", package="grpcio", extra="grpc", purpose="a storage behind a gRPC proxy")
            address = urlsplit(url)
            host, port = address.hostname or "localhost", address.port or 13000
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                proxy = optuna.storages.GrpcStorageProxy(host=host, port=port)
            proxy.wait_server_ready(timeout=10)
            return proxy
        return _database(url)
    except ConfigError:
        raise
    except Exception as error:  # each storage raises errors of its own driver
        raise unusable(config, folder, error) from error


def _database(url: str) -> RDBStorage:
    """Open a database. Of processes that make the tables of a new one at the same moment, all but one are refused."""
    arguments = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else None
    for _ in range(ATTEMPTS):
        try:
            return RDBStorage(url, engine_kwargs=arguments)
        except DatabaseError as error:
            if not (isinstance(error, IntegrityError) or "already exists" in str(error)):
                raise
            time.sleep(PAUSE)
    return RDBStorage(url, engine_kwargs=arguments)


@contextmanager
def storage_of(config: SweepConfig, folder: Path) -> Iterator[BaseStorage]:
    """Open the storage of a sweep, and close its connections at the end."""
    storage = open_storage(config, folder)
    try:
        yield storage
    finally:
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()


def unusable(config: SweepConfig, folder: Path, error: Exception) -> ConfigError:
    """Say that a storage cannot be used, without the password that its URL may hold."""
    if isinstance(error, ModuleNotFoundError):
        what = f"needs the Python package {error.name!r}, which is not installed"
        return ConfigError(what, where=without_password(config.storage), hint=f"pip install {error.name}")
    text = " ".join(str(error).split()) or type(error).__name__
    if config.storage is not None and (password := urlsplit(config.storage).password):
        text = text.replace(password, "***")
    return ConfigError(
        f"the storage cannot be used ({text})",
        where=without_password(config.storage) or journal_path(config, folder),
        hint="check the URL, or leave `storage` out for a journal file",
    )


def without_password(url: str | None) -> str | None:
    """A storage's URL with its password masked."""
    if url is None or not (password := urlsplit(url).password):
        return url
    return url.replace(f":{password}@", ":***@")


def mend_journal(journal: Path) -> None:
    """Remove what a killed process may have left: the journal's lock, and an incomplete line.

    No other process may be using the journal.
    """
    for lock in journal.parent.glob(f"{journal.name}.lock*"):
        lock.unlink()
    if journal.exists():
        whole = journal.read_bytes().rfind(b"\n") + 1
        with journal.open("r+b") as file:
            file.truncate(whole)


def create_study(name: str, storage: Any, *, objectives: int = 1) -> Study:
    """Open an Optuna study, or make it."""
    return optuna.create_study(
        study_name=name, storage=storage, directions=["minimize"] * objectives, load_if_exists=True
    )


def tuning_study(config: SweepConfig, subject: Subject, storage: Any) -> Study:
    """Open the Optuna study of an architecture on a kind of labels, or make it."""
    objectives = 1 if config.objective.cost is None else 2
    return create_study(f"{config.name}-{subject.architecture}-{subject.regime}", storage, objectives=objectives)


def prepare_sweep(config: SweepConfig, folder: Path, alone: bool) -> None:
    """Write the settings and make the studies; two sweeps in one folder or one storage are an error.

    ``alone``: no other process works in the folder, so that what a killed one left can be repaired.

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
    stores = [store, *(Store.open(more.path) for more in data.also)]
    first, *others = (
        {"content_hash": one.attributes.content_hash, "split_hash": one.attributes.split_hash} for one in stores
    )
    identity = {key: value for key, value in config.identity().items() if key != "storage"}
    identity["data"] = {**first, **({"others": others} if others else {})}
    try:  # an unreachable storage is told before any work
        with storage_of(config, folder) as storage:
            tuned = (tuning_study(config, subject, storage) for subject in config.subjects)
            for study in chain([create_study(config.name, storage)], tuned):  # none is made after one that is refused
                known = study.user_attrs.get(_SETTINGS)
                if known is None:
                    study.set_user_attr(_SETTINGS, identity)
                elif changed := differences(known, identity):
                    raise ConfigError(
                        f"the storage holds a study {study.study_name!r} with other settings ({'; '.join(changed)})",
                        where=without_password(config.storage) or folder,
                        hint="give the sweep a new `name`, or restore the settings; the study was not changed",
                    )
    except ConfigError:
        raise
    except Exception as error:  # each storage raises errors of its own driver
        raise unusable(config, folder, error) from error
    save(config, path)
