"""Pseudo-labels: a teacher scores a table, the best are selected, described, and their worth is measured."""
