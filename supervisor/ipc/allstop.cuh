// The stop flag in CUDA C++; `stop` is StopFlag.device_pointer. Compile with
// -I$(python -c 'import supervisor; print(supervisor.CUDA_INCLUDE)').
#ifndef ALLSTOP_CUH
#define ALLSTOP_CUH

// Whether a stop is requested. Volatile: a plain load is lifted out of the loop, or answered by
// a cache that never hears of the host's write. A read over PCIe takes a microsecond or two,
// and an H200 gets about a million of them a second for all its blocks together: let one thread
// ask, and seldom; with many blocks let them take turns.
__device__ __forceinline__ bool allstop_stop_requested(const long long *stop) {
    return *(const volatile long long *)stop != 0;
}

// The same for a whole block: one thread asks, all of them get its answer. A barrier: every
// thread of the block must call it, and then all leave or none. If each asked for itself, some
// would see the stop a moment before the others, who would wait at the next barrier for ever.
__device__ __forceinline__ bool allstop_block_stop_requested(const long long *stop) {
    bool first = threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0;
    return __syncthreads_or(first && allstop_stop_requested(stop)) != 0;
}

// The same for one block of many: they take turns, so that together they stay within what the
// device can read. `step` counts the block's own calls, the same for all its threads; it asks in
// every 16th, and only then this is a barrier.
__device__ __forceinline__ bool allstop_block_stop_requested(const long long *stop, int step) {
    return (step + blockIdx.x) % 16 == 0 && allstop_block_stop_requested(stop);
}

// The same for a warp whose 32 lanes have converged.
__device__ __forceinline__ bool allstop_warp_stop_requested(const long long *stop) {
    unsigned lane = (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32;
    return __any_sync(0xffffffffu, lane == 0 && allstop_stop_requested(stop)) != 0;
}

#endif
