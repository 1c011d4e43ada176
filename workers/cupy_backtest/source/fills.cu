// Rows of signals, a bit per bar: one thread per row, word by word.
//
// Curves that depend on all bars before are computed in the order of
// workers/kernels/source/curves.py, since their bits are to be those of the CPU. None is stored:
// every row computes its own, which is less to read and write than a shared one.
#include "accounting.cuh"
#include "poll.cuh"

// Which row a thread fills. Threads beyond the last one compute it too and write nothing: every
// thread comes to every barrier.
struct Row {
  i32 at;
  bool mine;
};

INLINE Row row_of(i32 index, i32 n_rows) {
  const Row row = {index < n_rows ? index : n_rows - 1, index < n_rows};
  return row;
}

// How many standard deviations each price is from its trailing average; see `deviations` there.
struct Deviations {
  const double* prices;
  i32 window;
  double base, total, squares;

  INLINE Deviations(const double* prices, i32 window)
      : prices(prices), window(window), base(0.0), total(0.0), squares(0.0) {}

  INLINE bool exists(i32 bar) const { return bar >= window - 1; }

  INLINE void restart(i32 bar) {
    base = prices[bar];
    total = squares = 0.0;
    for (i32 i = bar + 1 - window; i < bar + 1; ++i) {
      const double distance = prices[i] - base;
      total += distance;
      squares += distance * distance;
    }
  }

  INLINE void step(i32 bar) {
    if (!exists(bar)) return;
    if (bar == window - 1 || bar % TILE_BARS == 0) {
      restart(bar);
      return;
    }
    const double added = prices[bar] - base, dropped = prices[bar - window] - base;
    total += added - dropped;
    squares += added * added - dropped * dropped;
  }

  INLINE double value(i32 bar) const {
    const double distance = window * (prices[bar] - base) - total;
    const double variance = window * squares - total * total;
    return variance > 0.0 ? distance / sqrt(variance) : 0.0;
  }
};

// Wilder's relative strength index; see `rsi` there.
struct Strength {
  const double* close;
  i32 window;
  double gain, loss;

  INLINE Strength(const double* close, i32 window)
      : close(close), window(window), gain(0.0), loss(0.0) {}

  INLINE bool exists(i32 bar) const { return bar >= window; }

  INLINE void step(i32 bar) {
    if (bar == 0) return;
    const double change = close[bar] - close[bar - 1];
    const double up = higher_of(change, 0.0), down = higher_of(-change, 0.0);
    if (bar > window) {
      gain = (gain * (window - 1) + up) / window;
      loss = (loss * (window - 1) + down) / window;
      return;
    }
    gain += up;
    loss += down;
    if (bar == window) {
      gain /= window;
      loss /= window;
    }
  }

  INLINE double value(i32) const {
    return gain + loss > 0.0 ? 100.0 * gain / (gain + loss) : 50.0;
  }
};

// Fill this thread's row with the bars on which its curve lies beyond its bound.
template <typename Curve>
INLINE void fill(const Stop& stop, const Levels& levels, Row row, Curve& curve) {
  const double bound = levels.bounds[row.at];
  const bool above = levels.above[row.at] != 0;
  const i32 n_tiles = (levels.n_bars + TILE_BARS - 1) / TILE_BARS;
  Poll poll = no_poll();
  ask(stop, poll, 0);
  for (i32 tile = 0; tile < n_tiles; ++tile) {
    if (leaves(stop, poll, tile)) return;
    ask(stop, poll, tile + 1);  // answered within this tile, looked at in the next one
    for (i32 block = tile * TILE; block < (tile + 1) * TILE; ++block) {
      u64 word = 0;
      for (i32 k = 0; k < WORD && block * WORD + k < levels.n_bars; ++k) {
        const i32 bar = block * WORD + k;
        curve.step(bar);
        if (!curve.exists(bar)) continue;
        const double value = curve.value(bar);
        word |= (u64)(above ? value > bound : value < bound) << k;
      }
      if (row.mine) levels.words[(i64)block * levels.n_rows + row.at] = word;
    }
  }
}

ROOMY_KERNEL fill_deviations(BY_VALUE Stop stop, BY_VALUE Levels levels) {
  const Row row = row_of(blockIdx.x * blockDim.x + threadIdx.x, levels.n_rows);
  Deviations curve(levels.prices, levels.windows[row.at]);
  fill(stop, levels, row, curve);
}

ROOMY_KERNEL fill_rsi(BY_VALUE Stop stop, BY_VALUE Levels levels) {
  const Row row = row_of(blockIdx.x * blockDim.x + threadIdx.x, levels.n_rows);
  Strength curve(levels.prices, levels.windows[row.at]);
  fill(stop, levels, row, curve);
}

// The highest of 2^level prices from each bar on, from those of half as many. Near the end, where
// fewer are left, it is the highest of those that are there, which no row needs.
KERNEL raise_ladder(BY_VALUE Stop stop, BY_VALUE Ladder ladder) {
  if (leaves_at_start(stop)) return;
  const i32 half = 1 << (ladder.level - 1), last = ladder.n_bars - 1;
  const double* below = ladder.ladder + (i64)(ladder.level - 1) * ladder.n_bars;
  double* above = ladder.ladder + (i64)ladder.level * ladder.n_bars;
  for (i32 i = threadIdx.x; i < TILE_BARS; i += blockDim.x) {
    const i64 bar = (i64)blockIdx.x * TILE_BARS + i;
    if (bar > last) return;
    above[bar] = higher_of(below[bar], below[bar + half < last ? bar + half : last]);
  }
}

// Bars above the highest of the `window` before: the higher of two rungs that overlap [1].
// One block per tile and group of rows, since no bar needs another's result.
// [1] M. A. Bender, M. Farach-Colton, "The LCA Problem Revisited", LATIN 2000.
KERNEL fill_breakouts(BY_VALUE Stop stop, BY_VALUE Breakouts wanted) {
  const i32 groups = (wanted.n_rows + blockDim.x - 1) / blockDim.x;
  const i32 tile = blockIdx.x / groups;
  const i32 at = blockIdx.x % groups * blockDim.x + threadIdx.x;
  if (leaves_at_start(stop) || (i64)tile * TILE_BARS >= wanted.n_bars || at >= wanted.n_rows) return;
  const i32 window = wanted.windows[at], level = HIGHEST_BIT(window), reach = 1 << level;
  const double* rung = wanted.ladder + (i64)level * wanted.n_bars;
  for (i32 block = tile * TILE; block < (tile + 1) * TILE; ++block) {
    u64 word = 0;
    for (i32 k = 0; k < WORD && block * WORD + k < wanted.n_bars; ++k) {
      const i32 bar = block * WORD + k;
      if (bar < window) continue;
      const double highest = higher_of(rung[bar - window], rung[bar - reach]);
      word |= (u64)(wanted.close[bar] > highest) << k;
    }
    wanted.words[(i64)block * wanted.n_rows + at] = word;
  }
}
