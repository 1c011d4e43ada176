// The names of source/portable.cuh for a C++ compiler: included before it, instead of it.
//
// Two machines. SERIAL: a launch is one thread, and every thread of the grid a block of its own,
// so that no barrier has a thread to wait for; fast, for rows. Otherwise every thread of a block is
// a real thread and every barrier a real one, block after block, for races.
//
// DROP_BARRIER takes out BARRIER, DROP_LEAVING the barrier in BARRIER_ANY: the tests' controls.
#ifndef PORTABLE_CUH
#define PORTABLE_CUH

#include <cmath>
#include <cstring>

#define KERNEL static void
#define ROOMY_KERNEL static void
#define INLINE inline __attribute__((always_inline))
#define OUT_OF_LINE static __attribute__((noinline))
#define BY_VALUE const

namespace machine {

struct Index {
  int x;
};

#ifdef SERIAL
inline thread_local Index block_index, thread_index, block_size;
inline thread_local int* shared;
inline void barrier() {}
bool any(bool mine);
inline bool warp_all(bool mine) { return mine; }
#else
void barrier();
bool any(bool mine);
bool warp_all(bool mine);
extern thread_local Index block_index, thread_index, block_size;
extern int* shared;
#endif

inline unsigned reversed(unsigned word) {
  unsigned result = 0;
  for (int k = 0; k < 32; ++k) result |= (word >> k & 1u) << (31 - k);
  return result;
}

}  // namespace machine

#define blockIdx machine::block_index
#define threadIdx machine::thread_index
#define blockDim machine::block_size
#define SHARED_WORDS(name) int* const name = machine::shared

#ifdef DROP_BARRIER
#define BARRIER()
#else
#define BARRIER() machine::barrier()
#endif
#define BARRIER_ANY(x) machine::any(x)
#define WARP_ALL(x) machine::warp_all(x)

#define HIDE(x)

#define LOWEST_BIT(word) __builtin_ctzll(word)
#define HIGHEST_BIT(word) (31 - __builtin_clz((unsigned)(word)))
#define SHIFT_IN_SIGN(word, x) ((word) << 1 | (unsigned)(x) >> 31)
#define REVERSE_BITS(word) machine::reversed(word)
#define MULTIPLY_HIGH(a, b) ((unsigned long long)(((unsigned __int128)(a) * (b)) >> 64))

#define NOT_A_NUMBER __builtin_nan("")
#define FLOAT_INFINITY __builtin_inff()
#define DOUBLE_INFINITY __builtin_inf()

#endif
