"""Every loss: small pure functions of log-probabilities, one file an objective."""
