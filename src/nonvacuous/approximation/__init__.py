"""Networks that theorems build: each builder returns the network, its certified error and its cost."""
