"""Potentials: the base class, the registry, shared blocks, and one file per architecture."""
