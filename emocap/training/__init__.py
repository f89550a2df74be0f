"""Training of teacher, student and fine-tuned models with `Trainer`."""
