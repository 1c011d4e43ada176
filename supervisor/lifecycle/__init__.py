"""Steps on a run's directory, whichever process takes them."""
