"""What runs many trainings: the quickstart, cross-validation, the transfer study, the worth of pseudo-labels."""
