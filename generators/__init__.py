"""Making image–mask pairs with diffusion models, and the drawn world that needs none."""
