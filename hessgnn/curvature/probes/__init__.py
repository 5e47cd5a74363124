"""Probe vectors for Hessian-vector products: one file per kind, joined by the decorator ``PROBES.register``."""

from hessgnn.curvature.probes.base import PROBES, ProbeKind, Probes, all_rows, averaged, draw, shuffled, unit_vectors

__all__ = ["PROBES", "ProbeKind", "Probes", "all_rows", "averaged", "draw", "shuffled", "unit_vectors"]
