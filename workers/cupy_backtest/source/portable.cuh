// What differs between CUDA and the C++ compiler of the tests: these names, nothing else.
//
// The tests include a file of their own before this one, which defines the same names and
// PORTABLE_CUH (tests/support/gpu). Compiled by nvcc or NVRTC, with --fmad=false: a product and a
// sum rounded at once would give other rows than the CPU's.
#ifndef PORTABLE_CUH
#define PORTABLE_CUH

#define KERNEL extern "C" __global__ void __launch_bounds__(256)
#define ROOMY_KERNEL extern "C" __global__ void __launch_bounds__(256, 2)  // 128 registers: no spills
#define INLINE __device__ __forceinline__
#define OUT_OF_LINE static __device__ __noinline__
#define BY_VALUE const __grid_constant__
#define SHARED_WORDS(name) extern __shared__ int name[]

#define BARRIER() __syncthreads()
#define BARRIER_ANY(x) __syncthreads_or(x)
#define WARP_ALL(x) __all_sync(0xffffffffu, (x))

// The compiler knows no more of this number than that it is one.
#define HIDE(x) asm volatile("" : "+l"(x))

#define LOWEST_BIT(word) (__ffsll((long long)(word)) - 1)
#define HIGHEST_BIT(word) (31 - __clz((int)(word)))
#define SHIFT_IN_SIGN(word, x) __funnelshift_l((x), (word), 1)
#define REVERSE_BITS(word) __brev(word)
#define MULTIPLY_HIGH(a, b) __umul64hi((a), (b))

#define NOT_A_NUMBER __longlong_as_double(0x7ff8000000000000ll)
#define FLOAT_INFINITY __int_as_float(0x7f800000)
#define DOUBLE_INFINITY __longlong_as_double(0x7ff0000000000000ll)

#endif
