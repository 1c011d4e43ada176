// The stop flag as a kernel sees it: every block sees it once per tile, few read it.
//
// The flag is a word of host memory that a request may write at any time. A plain load would be
// taken out of the loop and never see it; a volatile one becomes a strong load at system scope.
// Such a read crosses PCIe, and a device has only about a million a second of them for all its
// blocks (bench/results/gpu): so the blocks take turns, and one that has read the stop says so in
// `seen`, a word of device memory, which every block reads once per tile from the L2 cache.
//
// One thread reads for its block. It asks, works on, and looks at the answer at a later barrier,
// through which all threads of the block learn the same. Were each to look for itself, some might
// leave while the rest waited at the next barrier.
#ifndef POLL_CUH
#define POLL_CUH

#include "layout.cuh"
#include "portable.cuh"

// What the block's first thread last read; 0 in all others.
struct Poll {
  i64 flag;
  i32 seen;
};

INLINE Poll no_poll() {
  const Poll poll = {0, 0};
  return poll;
}

// Tiles between two reads of the flag by one block.
#define TURNS 16

// Ask whether a stop is requested, or another block has seen one. `now` counts a block's tiles.
INLINE void ask(const Stop& stop, Poll& poll, u32 now) {
  if (threadIdx.x != 0) return;
  poll.seen = *stop.seen;
  if ((now + blockIdx.x) % TURNS == 0) poll.flag = *stop.flag;
}

// Whether the block leaves, by the last answer; a barrier, to which all its threads come. `now`, a
// number that changes from call to call, keeps the compiler from comparing the answer where it was
// asked for: the block would wait for it there.
INLINE bool leaves(const Stop& stop, const Poll& poll, u32 now) {
  i64 read = (poll.flag | poll.seen) ^ now;
  HIDE(read);
  const bool left = BARRIER_ANY(read != now);
  if (threadIdx.x == 0 && left) *stop.seen = *stop.unfinished = 1;
  return left;
}

// For blocks that are done within a tile: asked and answered at their start.
INLINE bool leaves_at_start(const Stop& stop) {
  Poll poll = no_poll();
  ask(stop, poll, 0);
  return leaves(stop, poll, 0);
}

#endif
