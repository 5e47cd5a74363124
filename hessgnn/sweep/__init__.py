"""Tuning the loss weights of each architecture under one budget."""
