"""Why optimization works: theorems on landscapes, convergence and implicit bias, checked on a network and its data."""
