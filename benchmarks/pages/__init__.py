"""What the pages in docs are made from: stored results, and functions that say them in tables and sentences."""
