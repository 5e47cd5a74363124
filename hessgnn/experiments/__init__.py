"""What sweeps and studies share: jobs, worker processes, run folders, comparisons."""
