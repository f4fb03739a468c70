"""Self-certified learning: training that ends in a certificate."""
