"""What runs inside a worker process: the loop, the strategies and their kernels.

Imports nothing: each numeric stack is loaded only by the worker that uses it.
"""
