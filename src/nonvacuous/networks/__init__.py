"""Networks that the theory speaks of: layers and parametrizations that torch does not have, and nets built of them."""
