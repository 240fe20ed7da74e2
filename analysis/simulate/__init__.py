"""A clinic of simulated patients whose brain volumes are known."""
