"""Tuning of each architecture on each kind of labels, with equal numbers of trials."""
