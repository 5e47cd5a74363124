"""Potential energy surfaces: potentials, ASE calculators and label engines, and what is searched on them."""
