// Kernels of the measurements: they compute nothing of use, for a known time, and poll a stop
// word in the way that the backtests' kernels do.

typedef long long word;

__device__ float work_for(float x, int iterations) {
    for (int i = 0; i < iterations; ++i) x = x * 0.999f + 1.0f;
    return x;
}

__device__ unsigned long long now_ns() {
    unsigned long long ns;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
    return ns;
}

// One thread of a block reads the word when a tile begins; all learn it when the tile ends,
// through a barrier, so that a block leaves as one.
extern "C" __global__ void polling(const volatile word *flag, int tiles, int iterations,
                                   float *out) {
    float x = threadIdx.x;
    for (int tile = 0; tile < tiles; ++tile) {
        word asked = 0;
        if (threadIdx.x == 0) asked = *flag;
        x = work_for(x, iterations);
        if (__syncthreads_or(asked != 0)) break;
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = x;
}

// The same as the backtests' kernels do it: blocks take turns at the flag, and look at a word in
// VRAM, where one that has seen a stop would say so (workers/cupy_backtest/source/poll.cuh).
extern "C" __global__ void in_turns(const volatile word *flag, volatile int *seen, int tiles,
                                    int iterations, float *out) {
    float x = threadIdx.x;
    word asked = 0;
    int told = 0;
    for (int tile = 0; tile < tiles; ++tile) {
        if (threadIdx.x == 0) {
            told = *seen;
            if ((tile + blockIdx.x) % 16 == 0) asked = *flag;
        }
        x = work_for(x, iterations);
        if (__syncthreads_or(asked != 0 || told != 0)) break;
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = x;
}

// The same without the read; `never` is 0, which the compiler does not know.
extern "C" __global__ void twin(int never, int tiles, int iterations, float *out) {
    float x = threadIdx.x;
    for (int tile = 0; tile < tiles; ++tile) {
        word asked = 0;
        if (threadIdx.x == 0) asked = never;
        x = work_for(x, iterations);
        if (__syncthreads_or(asked != 0)) break;
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = x;
}

// Runs until it sees a stop, or for `limit_ns`. signs[0]: it runs; signs[1]: it has seen the
// stop. A flag of 0 is not polled: the kernel is deaf.
extern "C" __global__ void until_stopped(const volatile word *flag, unsigned long long limit_ns,
                                         int iterations, volatile word *signs) {
    extern __shared__ float held[];  // as much as a launch asks for: what preemption has to save
    const bool speaks = threadIdx.x == 0 && blockIdx.x == 0;
    const unsigned long long end = now_ns() + limit_ns;
    float x = threadIdx.x;
    if (speaks) {
        signs[0] = 1;
        __threadfence_system();
    }
    while (true) {
        word asked = 0;
        bool over = false;
        if (threadIdx.x == 0) {
            asked = flag ? *flag : 0;
            over = now_ns() > end;
            held[0] = x;
        }
        x = work_for(x, iterations);
        if (speaks && asked) {
            signs[1] = 1;
            __threadfence_system();
        }
        if (__syncthreads_or(asked != 0 || over)) break;
    }
    if (x == 0.5f) signs[2] = 1;  // never; keeps the work
}
