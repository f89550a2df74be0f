"""What a model trained on the source brings to the target: AnB, AnB+, their controls, and the study."""
