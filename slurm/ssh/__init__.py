"""The way to a cluster over SSH."""
