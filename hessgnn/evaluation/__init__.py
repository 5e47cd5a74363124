"""Evaluate a potential: tasks, predictions, the record."""
