"""Scores of a model beside its prior, intervals, controls and people."""
