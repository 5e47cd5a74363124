"""Molecules as arrays: vibrations and thermochemistry, without a potential."""
