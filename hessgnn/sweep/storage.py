"""Where the trials are kept: a journal file, a database, or a proxy in front of one."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import DatabaseError, IntegrityError

from hessgnn.errors import ConfigError
from hessgnn.runtime.imports import require
from hessgnn.sweep.config import SweepConfig

JOURNAL = "study.journal"
"""In the sweep's folder, where no storage is named."""
ATTEMPTS, PAUSE = 20, 0.2
"""How often a database whose tables another process is making is tried, and seconds between."""


def journal_path(config: SweepConfig, folder: Path) -> Path | None:
    """Return the journal file of a sweep, or ``None`` where a database keeps its trials.

    Parameters
    ----------
    config
        The sweep.
    folder
        Its folder.

    Returns
    -------
    Path or None
    """
    if config.storage is None:
        return folder / JOURNAL
    scheme, _, rest = config.storage.partition(":")
    return Path(rest.removeprefix("//")) if scheme == "journal" else None


def open_storage(config: SweepConfig, folder: Path) -> BaseStorage:
    """Open the storage of a sweep.

    Parameters
    ----------
    config
        The sweep.
    folder
        Its folder.

    Returns
    -------
    BaseStorage
        For several threads of this process; other processes and machines open it themselves.

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
    """Open the storage of a sweep, and close its connections at the end.

    Parameters
    ----------
    config, folder
        See :func:`open_storage`.

    Yields
    ------
    BaseStorage
    """
    storage = open_storage(config, folder)
    try:
        yield storage
    finally:
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()


def unusable(config: SweepConfig, folder: Path, error: Exception) -> ConfigError:
    """Say that a storage cannot be used.

    Parameters
    ----------
    config, folder
        See :func:`open_storage`.
    error
        What its driver raised.

    Returns
    -------
    ConfigError
        Without the password that the URL may hold.
    """
    if isinstance(error, ModuleNotFoundError):
        what = f"needs the Python package {error.name!r}, which is not installed"
        return ConfigError(what, where=without_password(config.storage), remedy=f"pip install {error.name}")
    text = " ".join(str(error).split()) or type(error).__name__
    if config.storage is not None and (password := urlsplit(config.storage).password):
        text = text.replace(password, "***")
    return ConfigError(
        f"the storage cannot be used ({text})",
        where=without_password(config.storage) or journal_path(config, folder),
        remedy="check the URL, or leave `storage` out for a journal file",
    )


def without_password(url: str | None) -> str | None:
    """A storage's URL as it may be shown.

    Parameters
    ----------
    url
        As the sweep has it.

    Returns
    -------
    str or None
        ``None`` if there is none.
    """
    if url is None or not (password := urlsplit(url).password):
        return url
    return url.replace(f":{password}@", ":***@")


def mend_journal(journal: Path) -> None:
    """Take away what a killed process may have left: the journal's lock, and a line that was not finished.

    Parameters
    ----------
    journal
        The file, which no other process may be using.
    """
    for lock in journal.parent.glob(f"{journal.name}.lock*"):
        lock.unlink()
    if journal.exists():
        whole = journal.read_bytes().rfind(b"\n") + 1
        with journal.open("r+b") as file:
            file.truncate(whole)
