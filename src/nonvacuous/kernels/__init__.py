"""The infinite network beside the finite one: Gaussian-process and tangent kernels, their regression, the mean-field limit."""
