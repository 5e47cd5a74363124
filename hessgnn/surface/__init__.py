"""Potential energy surfaces: potentials, ASE calculators and label engines, and the searches that run on them."""
