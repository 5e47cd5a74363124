"""What training steps, Hessians, probes and loading cost: measured side by side, in one run."""
