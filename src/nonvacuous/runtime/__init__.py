"""Data as fixed samples, models by name, weights on disk, and one plain training loop."""
