"""The heart of the package: products with the Hessian, probes, full Hessians and vibrations."""
