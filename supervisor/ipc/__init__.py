"""What processes share without a lock."""
