"""What kernels are compiled from; imported only where a kernel has to be compiled."""
