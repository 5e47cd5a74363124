"""Formats of labelled structures that others write: one file each, joined by the decorators of the registry."""
