// Rows of signals, a bit per bar: one thread per row, word by word.
//
// Curves that depend on all bars before are computed in the order of
// workers/kernels/source/curves.py, since their bits are to be those of the CPU. None is stored:
// every row computes its own, which is less to read and write than a shared one.
#include "accounting.cuh"
#include "poll.cuh"
#include "wide.cuh"

#define SLACK (1.0 / 281474976710656.0)  // as in workers/indicators/exact.py

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

// Whether each price is beyond a band around its trailing average. Distance and variance are
// whole numbers that slide along, so the decision is exact, and that of the CPU.
struct Deviations {
  const i64* prices;
  i32 window, shift;
  i64 total, distance;
  Wide variance;

  INLINE Deviations(const i64* prices, i32 window, i32 shift)
      : prices(prices), window(window), shift(shift), total(0), distance(0), variance({0, 0}) {}

  INLINE i64 price(i32 bar) const { return (prices[bar] + ((i64)1 << shift >> 1)) >> shift; }

  INLINE bool exists(i32 bar) const { return bar >= window - 1; }

  INLINE void start(i32 bar) {
    for (i32 i = 0; i <= bar; ++i) {
      total += price(i);
      add_product(variance, window * price(i), price(i));
    }
    add_product(variance, -total, total);
    distance = window * price(bar) - total;
  }

  INLINE void step(i32 bar) {
    if (!exists(bar)) return;
    if (bar == window - 1) {
      start(bar);
      return;
    }
    const i64 added = price(bar), dropped = price(bar - window);
    const i64 dropped_distance = window * dropped - total;
    total += added - dropped;
    distance = window * added - total;
    add_product(variance, added - dropped, distance + dropped_distance);
  }

  // Whether the price is more than `width` deviations below the average: by doubles where these
  // are far enough apart.
  INLINE bool below(double width, u64 numerator, u64 denominator) const {
    if (distance >= 0) return false;
    const double left = (double)distance * (double)distance;
    const double right = width * width * as_double(variance);
    if (left > right * (1.0 + SLACK)) return true;
    if (left < right * (1.0 - SLACK)) return false;
    return lies_beyond(distance, variance, numerator, denominator);
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

// Fill this thread's row with the bars on which its curve lies where `is_set` says.
template <typename Rows, typename Curve, typename IsSet>
INLINE void fill(const Stop& stop, const Rows& wanted, Row row, Curve& curve, IsSet is_set) {
  const i32 n_tiles = (wanted.n_bars + TILE_BARS - 1) / TILE_BARS;
  Poll poll = no_poll();
  ask(stop, poll, 0);
  for (i32 tile = 0; tile < n_tiles; ++tile) {
    if (leaves(stop, poll, tile)) return;
    ask(stop, poll, tile + 1);  // answered within this tile, looked at in the next one
    for (i32 block = tile * TILE; block < (tile + 1) * TILE; ++block) {
      u64 word = 0;
      for (i32 k = 0; k < WORD && block * WORD + k < wanted.n_bars; ++k) {
        const i32 bar = block * WORD + k;
        curve.step(bar);
        if (curve.exists(bar)) word |= (u64)is_set(bar) << k;
      }
      if (row.mine) wanted.words[(i64)block * wanted.n_rows + row.at] = word;
    }
  }
}

ROOMY_KERNEL fill_bands(BY_VALUE Stop stop, BY_VALUE Bands bands) {
  const Row row = row_of(blockIdx.x * blockDim.x + threadIdx.x, bands.n_rows);
  Deviations curve(bands.prices, bands.windows[row.at], bands.shifts[row.at]);
  const double width = bands.widths[row.at];
  const u64 numerator = bands.numerators[row.at], denominator = bands.denominators[row.at];
  const bool above = bands.above[row.at] != 0;
  fill(stop, bands, row, curve, [&](i32) {
    return above ? curve.distance > 0 : curve.below(width, numerator, denominator);
  });
}

ROOMY_KERNEL fill_rsi(BY_VALUE Stop stop, BY_VALUE Levels levels) {
  const Row row = row_of(blockIdx.x * blockDim.x + threadIdx.x, levels.n_rows);
  Strength curve(levels.prices, levels.windows[row.at]);
  const double bound = levels.bounds[row.at];
  const bool above = levels.above[row.at] != 0;
  fill(stop, levels, row, curve, [&](i32 bar) {
    const double value = curve.value(bar);
    return above ? value > bound : value < bound;
  });
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
