"""Starting runs: rank environment from any launcher, Slurm submission."""
