"""Functions that turn a model and its data into measured numbers."""
