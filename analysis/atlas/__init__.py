"""An unbiased atlas of many people: template, probabilities, and everything carried into its space."""
