"""Building blocks that architectures share: layers, radial functions, activations."""
