// Long while the fast moving average is above the slow one: one thread per combination.
//
// The averages are never stored. Ranges per block of 64 bars settle most words for a whole warp,
// the rest is compared bar by bar from running sums.
#include "accounting.cuh"
#include "poll.cuh"

// Word whose bit k is set where the fast average is above the slow one after bar k; at[k] is the
// running sum after that bar. In integers modulo 2^32: the difference of the products has the right
// sign as long as it fits, whatever the sums themselves do. Its sign bit goes straight into the word.
INLINE u64 word_above(const i32* at, i32 fast, i32 slow) {
  u32 half[2];
#pragma unroll
  for (i32 h = 0; h < 2; ++h) {
    u32 bits = 0;
#pragma unroll 8
    for (i32 k = 32 * h; k < 32 * h + 32; ++k) {
      const u32 now = (u32)at[k];
      const u32 in_fast = now - (u32)at[k - fast], in_slow = now - (u32)at[k - slow];
      bits = SHIFT_IN_SIGN(bits, (u32)fast * in_slow - (u32)slow * in_fast);
    }
    half[h] = REVERSE_BITS(bits);
  }
  return half[0] | (u64)half[1] << 32;
}

// The same in float64, which is what the CPU does: for prices whose products need more than 32 bits,
// or more than 53: then both sides are rounded, and equal ones tie as they do there.
INLINE u64 word_above(const double* at, i32 fast, i32 slow) {
  u64 bits = 0;
#pragma unroll 8
  for (i32 k = 0; k < WORD; ++k) {
    const double now = at[k];
    const bool above = (now - at[k - fast]) * slow > (now - at[k - slow]) * fast;
    bits |= (u64)above << k;
  }
  return bits;
}

// How much of a word is known from the ranges of both averages in its block.
struct Settled {
  bool above, below;
};

INLINE Settled settled(const Crosses& crosses, i32 block, i32 fast_at, i32 slow_at) {
  const Range* ranges = crosses.ranges + (i64)block * crosses.n_windows;
  const Range fast = ranges[fast_at], slow = ranges[slow_at];
  const Settled answer = {fast.low > slow.high, fast.high < slow.low};
  return answer;
}

// The bars from `start` on on which an average over `window` bars exists.
INLINE u64 bars_with(i32 window, i32 start) {
  const i32 missing = window - 1 - start;
  return missing <= 0 ? ALL : missing < WORD ? ALL << missing : 0;
}

// Copy the sums that a tile needs, those of `reach` bars before it included, once no thread reads
// those of the tile before. They are there after the next barrier. Returns where this thread ended.
INLINE i32 stage(const Crosses& crosses, i32 first_bar, i32* staged) {
  const i32* sums = (const i32*)crosses.sums + (crosses.front - crosses.reach) + first_bar;
  BARRIER();
  i32 i = threadIdx.x;
  for (; i < crosses.reach + TILE_BARS + 1; i += blockDim.x) staged[i] = sums[i];
  return i;
}

// Sums are read from the block's shared memory if `STAGED`, else where they are. A constant, since
// the compiler has other instructions for the one and the other.
template <typename Number, bool STAGED>
INLINE void sweep(const Tables& tables, const Stop& stop, const Crosses& crosses,
                  const Batch& batch, i32* staged) {
  const i32 mine = blockIdx.x * blockDim.x + threadIdx.x;
  const i32 c = mine < batch.n ? mine : batch.n - 1;  // every thread comes to every barrier
  const i32 fast = crosses.fast[c], slow = crosses.slow[c];
  const bool ranged = crosses.ranges != nullptr;
  const i32 fast_at = ranged ? crosses.fast_at[c] : 0, slow_at = ranged ? crosses.slow_at[c] : 0;
  State state = at_start();
  if (STAGED && leaves_at_start(stop)) return;  // before anything is copied
  Poll before = no_poll();
  if (!STAGED) ask(stop, before);
  for (i32 tile = 0; tile < tables.n_tiles; ++tile) {
    const i32 first_bar = tile * TILE_BARS, end = tile_end(tables, first_bar);
    if (STAGED) {
      Poll poll = no_poll();
      ask(stop, poll);  // answered while sums are copied
      if (leaves(stop, poll, stage(crosses, first_bar, staged))) return;
    } else {
      if (leaves(stop, before, tile)) return;
      ask(stop, before);  // answered within this tile, looked at in the next one
    }
    const Number* after = STAGED
                              ? (const Number*)staged + crosses.reach + 1
                              : (const Number*)crosses.sums + crosses.front + first_bar + 1;
    Position position = carried_over(first_bar, state);
    for (i32 start = first_bar; start < end; start += WORD) {
      Settled known = {false, false};
      if (ranged) known = settled(crosses, start / WORD, fast_at, slow_at);
      u64 above = known.above ? ALL : 0;
      if (!WARP_ALL(known.above || known.below)) {
        above = word_above(after + (start - first_bar), fast, slow);
      }
      above &= bars_with(slow, start);
      const u64 exist = bars_before(start, end);
      through_word(tables, start, above & exist, ~above & exist, state, position);
    }
    end_tile(tables, tile, end, position, state);
  }
  if (mine < batch.n) finish(tables, state, batch.rows + 5ll * mine);
}

KERNEL sweep_crosses(BY_VALUE Tables tables, BY_VALUE Stop stop, BY_VALUE Crosses crosses,
    BY_VALUE Batch batch) {
  SHARED_WORDS(staged);
  sweep<i32, true>(tables, stop, crosses, batch, staged);
}

// For windows so long that a tile's sums do not fit into shared memory.
ROOMY_KERNEL sweep_crosses_far(BY_VALUE Tables tables, BY_VALUE Stop stop,
    BY_VALUE Crosses crosses, BY_VALUE Batch batch) {
  sweep<i32, false>(tables, stop, crosses, batch, nullptr);
}

ROOMY_KERNEL sweep_crosses_wide(BY_VALUE Tables tables, BY_VALUE Stop stop,
    BY_VALUE Crosses crosses, BY_VALUE Batch batch) {
  sweep<double, false>(tables, stop, crosses, batch, nullptr);
}

// Lowest and highest average of one window in each block of a tile, as average_extremes of
// workers/kernels/source/curves.py finds them, rounded outward to float32. Which blocks they settle
// differs from there; what they settle is what comparing every bar would say.
KERNEL fill_ranges(BY_VALUE Stop stop, BY_VALUE Ranges wanted) {
  const i32 groups = (wanted.n_windows + blockDim.x - 1) / blockDim.x;
  const i32 tile = blockIdx.x / groups;
  const i32 column = blockIdx.x % groups * blockDim.x + threadIdx.x;
  if (leaves_at_start(stop) || tile >= wanted.n_tiles || column >= wanted.n_windows) return;
  const i32 window = wanted.windows[column];
  const double slack = 1.0 / (1ll << 50);  // a rounding is 2^-53 of a number at most
  for (i32 b = 0; b < TILE; ++b) {
    const i32 start = tile * TILE_BARS + b * WORD;
    Range range = {-FLOAT_INFINITY, FLOAT_INFINITY};
    if (start >= window - 1 && start < wanted.n_bars) {
      const double* after = wanted.sums + wanted.front + start + 1;
      double low = DOUBLE_INFINITY, high = -DOUBLE_INFINITY;
      for (i32 k = 0; k < WORD; ++k) {
        const double sum = after[k] - after[k - window];
        low = lower_of(low, sum);
        high = higher_of(high, sum);
      }
      low /= window;
      high /= window;
      range.low = nextafterf((float)(low - slack * fabs(low)), -FLOAT_INFINITY);
      range.high = nextafterf((float)(high + slack * fabs(high)), FLOAT_INFINITY);
    }
    wanted.ranges[(i64)(start / WORD) * wanted.n_windows + column] = range;
  }
}
