"""Compiled kernels: signal masks, one bit a bar, and the accounting that reads them.

``docs/kernels.md`` explains the idea.
"""
