"""What is recorded of a run's jobs: their token, their states, the ledger, and what is left."""
