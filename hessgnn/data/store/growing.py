"""Stores that grow: a writer that may be killed, and merging of whole files.

HDF5 cannot be written in place without losing everything to a kill at the wrong moment. So what is appended goes to a
copy, which takes the file's name when it is complete. The writer commits when the file has doubled, so that all copies
together cost no more than the last one twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import yaml

from hessgnn.data.store import layout
from hessgnn.data.store.store import Store
from hessgnn.data.store.writer import Draft, drafted, judged, name_taken
from hessgnn.data.structure import Structure
from hessgnn.errors import DataError
from hessgnn.runtime.files import locked

FIRST_COMMIT = 1000
"""Structures after which a writer commits for the first time by itself."""


class StoreWriter:
    """Appends structures to a store, which is made if it does not exist.

    A context: leaving it commits, leaving it by an error keeps what was committed before. A process that is killed
    leaves that too, whole and readable at any moment; to resume, make the writer again and skip what is in
    :attr:`names`. One process at a time may write to a file, others may read it.

    Parameters
    ----------
    path
        The HDF5 file.
    level_of_theory
        Of all labels; that of the file where it exists.
    provenance, hessian_dtype
        Of a new file; those of an existing one stay.
    versions
        Of the codes involved, added to those of an existing file.

    Attributes
    ----------
    names : set of str
        Of all structures, committed or not.
    committed : int
        Structures that cannot be lost any more.

    Raises
    ------
    DataError
        When the file is damaged, is no store, or has another level of theory.
    UserError
        When another process writes to it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        level_of_theory: str,
        provenance: str = "",
        versions: Mapping[str, str] | None = None,
        hessian_dtype: layout.HessianDtype = "float32",
    ) -> None:
        self.path, self.level_of_theory, self.provenance = Path(path), level_of_theory, provenance
        self.versions, self.hessian_dtype = dict(versions or {}), hessian_dtype
        self.names: set[str] = set()
        self.committed = 0
        self._draft: Draft | None = None
        self._waiting: list[str] = []  # names that are not committed
        self._uncommitted = ExitStack()
        with ExitStack() as stack:
            stack.enter_context(locked(self.path))
            if self.path.exists():
                self._continue(Store.open(self.path))
            self._lock = stack.pop_all()

    def __len__(self) -> int:
        return len(self.names)

    def append(self, structure: Structure) -> None:
        """Add a structure, with a name of its own; it is safe from the next commit on.

        Raises
        ------
        DataError
            When its name is taken or a label is broken. It is then not added.
        UserError
            When the disk is full. What was not committed is then lost.
        """
        if structure.name in self.names:
            raise name_taken(structure.name)
        ready = judged(structure)
        with self._or_nothing():
            self._begun().add(*ready)
        self.names.add(structure.name)
        self._waiting.append(structure.name)
        if len(self._waiting) >= max(FIRST_COMMIT, self.committed):
            self.commit()

    def commit(self) -> None:
        """Put everything that was appended into the file. It takes time in proportion to the whole file."""
        if self._draft is None:
            return
        with self._or_nothing():
            self._draft.seal(self.level_of_theory, self.provenance, self.versions)
            self._uncommitted.close()
        self._draft = None
        self.committed += len(self._waiting)
        self._waiting = []

    def close(self) -> None:
        """Let others write. What was not committed is lost."""
        with suppress(_Discarded), self._or_nothing():
            raise _Discarded
        self._lock.close()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.close()

    def _continue(self, store: Store) -> None:
        """Take over what the file holds."""
        attributes = store.attributes
        if attributes.level_of_theory != self.level_of_theory:
            raise _other_level(self.path, attributes.level_of_theory, self.level_of_theory, "what is appended")
        store.verify()
        self.names = set(store.names)
        self.committed = len(store)
        self.provenance, self.hessian_dtype = attributes.provenance, attributes.hessian_dtype
        self.versions = join_versions([attributes.versions, self.versions])

    def _begun(self) -> Draft:
        """The draft that structures are added to: a copy of the file at first."""
        if self._draft is None:
            self._draft = self._uncommitted.enter_context(drafted(self.path, self.hessian_dtype))
            if self.committed:
                with layout.open_checked(self.path) as file:
                    self._draft.extend(file)
        return self._draft

    @contextmanager
    def _or_nothing(self) -> Iterator[None]:
        """Forget what is not committed when something goes wrong."""
        try:
            yield
        except BaseException:
            self._draft = None
            self.names.difference_update(self._waiting)
            self._waiting = []
            with self._uncommitted.pop_all():  # removes the draft
                raise


class _Discarded(Exception):
    """What was not committed is not wanted."""


def merge_stores(sources: Sequence[str | Path], output: str | Path) -> Store:
    """Join stores at one level of theory.

    Parameters
    ----------
    sources
        At least one; no name may be in two of them. Groups keep their names: the same molecule in two files is one.
    output
        The HDF5 file, written atomically. It may be one of the sources, which then has the others appended.

    Returns
    -------
    Store
        Hessians are float64 if those of one source are; its provenance lists the sources with theirs.

    Raises
    ------
    DataError
        When a source is damaged or at another level of theory, or a name is taken.
    """
    output = Path(output)
    with locked(output):
        stores = [Store.open(source) for source in sources]
        _require_mergeable(stores)
        level = stores[0].attributes.level_of_theory
        origin = [
            {
                "file": store.path.name,
                "structures": len(store),
                "content_hash": store.attributes.content_hash,
                "provenance": store.attributes.provenance,
            }
            for store in stores
        ]
        wide = any(store.attributes.hessian_dtype == "float64" for store in stores)
        with drafted(output, "float64" if wide else "float32") as draft:
            for store in stores:
                with layout.open_checked(store.path) as file:
                    draft.extend(file)
            provenance = yaml.safe_dump({"merged": origin}, sort_keys=False, allow_unicode=True)
            draft.seal(level, provenance, join_versions([store.attributes.versions for store in stores]))
    return Store.open(output)


def _require_mergeable(stores: Sequence[Store]) -> None:
    first, owner = stores[0], dict[str, Path]()
    for store in stores:
        level = store.attributes.level_of_theory
        if level != first.attributes.level_of_theory:
            raise _other_level(store.path, level, first.attributes.level_of_theory, first.path)
        store.verify()
        for name in store.names:
            if name in owner:
                raise name_taken(name, where=f"{store.path} and {owner[name]}")
            owner[name] = store.path


def _other_level(path: Path, level: str, other: str, of: object) -> DataError:
    return DataError(
        f"is at {level}, and {of} at {other}: a set has one level of theory", where=path, hint="keep them apart"
    )


def join_versions(versions: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Versions of all codes; where they differ, each."""
    found: dict[str, list[str]] = {}
    for one in versions:
        for name, number in one.items():
            known = found.setdefault(name, [])
            known += [each for each in number.split(", ") if each not in known]
    return {name: ", ".join(numbers) for name, numbers in found.items()}
