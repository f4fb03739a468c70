"""The scripts that made the stored values need another library's environment: they are no test modules."""

collect_ignore = ["neural_tangents_dense.py", "neural_tangents_images.py"]
