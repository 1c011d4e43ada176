"""The life of the cluster jobs that belong to a run."""
