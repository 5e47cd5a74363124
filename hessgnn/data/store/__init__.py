"""What lies on disk: one HDF5 file of structures and labels, its splits and its writers."""

from hessgnn.data.store.store import Store
from hessgnn.data.store.writer import write_store

__all__ = ["Store", "write_store"]
