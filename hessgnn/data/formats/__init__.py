"""Readers and writers of other programs' formats."""
