"""Model and data set cards, filled from a run's own files."""
