"""What a layer is as a map: its graph, its linear part and adjoint, brackets of its norms, its normalizer, its cost."""
