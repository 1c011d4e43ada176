// The stop flag as a kernel sees it: once per block and tile.
//
// The flag is a word of host memory that a request may write at any time. A plain load would be
// taken out of the loop and never see it; a volatile one becomes a strong load at system scope.
// One thread reads for its block: a read over PCIe takes microseconds. Nobody waits for it: the
// answer is looked at one tile later, at a barrier through which all threads of a block learn the
// same. Were each to look for itself, some might leave while the rest waited at the next barrier.
#ifndef POLL_CUH
#define POLL_CUH

#include "layout.cuh"
#include "portable.cuh"

// What the block's first thread last read; 0 in all others.
struct Poll {
  i64 read;
};

INLINE void ask(const Stop& stop, Poll& poll) {
  if (threadIdx.x == 0) poll.read = *stop.flag;
}

// The first answer is waited for: a block that starts after a request leaves at once.
INLINE Poll start_polling(const Stop& stop) {
  Poll poll = {0};
  ask(stop, poll);
  return poll;
}

// Whether the block leaves, told by the read before this one; a barrier. All threads of the block
// call it, at the start of each tile, and leave where it says so.
INLINE bool leaves(const Stop& stop, Poll& poll) {
  const bool left = BARRIER_ANY(poll.read != 0);
  if (threadIdx.x == 0 && left) *stop.unfinished = 1;
  if (!left) ask(stop, poll);
  return left;
}

#endif
