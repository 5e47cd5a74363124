"""What do Hessian labels buy, for which interatomic potential, at what cost."""
