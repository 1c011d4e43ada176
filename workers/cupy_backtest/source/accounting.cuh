// The accounting of one combination by one thread, as in workers/kernels/source/sweep.py.
//
// Rows are to be bit for bit the CPU's, so every operation on a double, its order, and which
// argument of a minimum comes first are those of that file. What differs is how signals come: a
// word at a time from the kernel that makes them, where the CPU has all 64 of a tile.
#ifndef ACCOUNTING_CUH
#define ACCOUNTING_CUH

#include "layout.cuh"
#include "portable.cuh"

#define WORD 64         // bars in a block
#define TILE 64         // blocks in a tile
#define TILE_BARS 4096  // bars in a tile
#define ALL (~0ull)     // every bit
#define FEW (~1ull)     // all but bit 0: shifted left by k, the bits after k

// A combination, carried from tile to tile.
struct State {
  double units;   // what is held; 0 when flat
  double value;   // money after the last exit
  double peak;    // highest equity so far
  double lowest;  // lowest equity since that peak
  double worst;   // lowest ratio of equity to peak before that peak
  double sum;     // of per-bar returns, in the units of the prefix tables
  double squares;
  i32 entries;
  i32 held_bars;
};

// What is open within a tile. A position carried over counts as opened just before the tile.
struct Position {
  i32 opened;  // bar
  bool holding;
  bool carried_over;
};

// What a stretch of equity does to a drawdown.
struct Depth {
  double peak, lowest, worst;
};

// Python's min and max: the first where neither is less.
INLINE double lower_of(double a, double b) { return b < a ? b : a; }
INLINE double higher_of(double a, double b) { return b > a ? b : a; }

INLINE State at_start() {
  State state = {0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0, 0};
  return state;
}

INLINE i32 tile_end(const Tables& tables, i32 first_bar) {
  const i32 end = first_bar + TILE_BARS;
  return end < tables.n_bars ? end : tables.n_bars;
}

// Which of the 64 bars from `start` on are there.
INLINE u64 bars_before(i32 start, i32 end) {
  const i32 n = end - start;
  return n < WORD ? ~(ALL << n) : ALL;
}

// Account for equity between `low` and `high` with no deeper fall in between.
INLINE void see(double low, double high, Depth& depth) {
  depth.lowest = lower_of(depth.lowest, low);
  if (high > depth.peak) {
    depth.worst = lower_of(depth.worst, depth.lowest / depth.peak);
    depth.peak = high;
    depth.lowest = high;
  }
}

INLINE void walk(const Tables& tables, i32 start, i32 end, double units, Depth& depth) {
  for (i32 bar = start; bar < end; ++bar) {
    const double equity = units * tables.close[bar];
    see(equity, equity, depth);
  }
}

// Whether a fall to this ratio would be the deepest so far.
INLINE bool may_matter(double fall, const Depth& depth) {
  return fall < depth.worst && fall * depth.peak < depth.lowest;
}

INLINE Depth depth_after(const Tables& tables, i32 start, i32 end, double units, Depth depth) {
  const i32 first = start / WORD, last = end / WORD;
  if (first == last) {
    walk(tables, start, end, units, depth);
    return depth;
  }
  double low = tables.entries[start].low, high = tables.entries[start].high;
  for (i32 b = first; b < last; ++b) {
    if (b > first) {
      low = tables.spans[b].low;
      high = tables.spans[b].high;
    }
    if (may_matter(tables.falls[b], depth)) {
      walk(tables, start > b * WORD ? start : b * WORD, (b + 1) * WORD, units, depth);
    } else {
      see(units * low, units * high, depth);
    }
  }
  if (end % WORD == 0) return depth;
  if (may_matter(tables.falls[last], depth)) {
    walk(tables, last * WORD, end, units, depth);
  } else {
    see(units * tables.exits[end].low, units * tables.exits[end].high, depth);
  }
  return depth;
}

// Equity's extremes after holding `units` on the bars from `start` to before `end`, where extremes
// of prices alone do not tell. Rare, so out of the sweep's way; it takes and returns numbers, since
// a reference to the state would put that into memory for the whole sweep.
OUT_OF_LINE Depth hold(const Tables& tables, i32 start, i32 end, double units, double peak,
                       double lowest, double worst) {
  const Depth depth = {peak, lowest, worst};
  return depth_after(tables, start, end, units, depth);
}

// Lowest and highest close on the bars from `start` to before `end`, in one tile. Within one block
// they are merely bounds: bars up to the block's end and bars from its start both include ours.
INLINE Span extremes(const Tables& tables, i32 start, i32 end) {
  const i32 first = start / WORD, last = end / WORD, between = last - first - 1;
  const double low_since = tables.entries[start].low, high_since = tables.entries[start].high;
  const double low_until = tables.exits[end].low, high_until = tables.exits[end].high;
  if (first == last) {
    const Span bounds = {higher_of(low_since, low_until), lower_of(high_since, high_until)};
    return bounds;
  }
  Span span = {lower_of(low_since, low_until), higher_of(high_since, high_until)};
  if (between > 0) {
    const i32 level = HIGHEST_BIT(between);
    const Span left = tables.spans[level * tables.n_blocks + first + 1];
    const Span right = tables.spans[level * tables.n_blocks + last - (1 << level)];
    span.low = lower_of(span.low, lower_of(left.low, right.low));
    span.high = higher_of(span.high, higher_of(left.high, right.high));
  }
  return span;
}

// Account for what is open up to before `until`. The CPU also looks closer where a fall inside may be
// the deepest; without a new peak that comes to the same as the lowest equity, so here it does not.
INLINE void hold_until(const Tables& tables, i32 until, const Position& position, State& state) {
  const double units = state.units;
  const i32 opened = position.opened;
  const Span span = extremes(tables, opened, until);
  if (units * span.high > state.peak ||
      (units * span.low < state.lowest && opened / WORD == until / WORD)) {
    const Depth depth =
        hold(tables, opened, until, units, state.peak, state.lowest, state.worst);
    state.peak = depth.peak;
    state.lowest = depth.lowest;
    state.worst = depth.worst;
  } else {
    state.lowest = lower_of(state.lowest, units * span.low);
  }
  state.held_bars += until - opened;
}

INLINE void open_at(const Tables& tables, i32 bar, State& state, Position& position) {
  state.units = state.value * tables.entry_factor / tables.close[bar];
  ++state.entries;
  position.opened = bar;
  position.holding = true;
  position.carried_over = false;
}

// Add what was returned since the position was opened, given the running sums at its end. Those at
// its start are read here: kept since then, they would cost four registers.
INLINE void add_returns(const Tables& tables, i64 sum, i64 squares, const Position& position,
                        State& state) {
  if (!position.carried_over) {
    sum -= tables.entries[position.opened].sum;
    squares -= tables.entries[position.opened].squares;
  }
  state.sum += (double)sum;
  state.squares += (double)squares;
}

INLINE void close_at(const Tables& tables, i32 bar, State& state, Position& position) {
  hold_until(tables, bar, position, state);
  state.value = state.units * tables.close[bar] * tables.exit_factor;
  Depth depth = {state.peak, state.lowest, state.worst};
  see(state.value, state.value, depth);
  state.peak = depth.peak;
  state.lowest = depth.lowest;
  state.worst = depth.worst;
  add_returns(tables, tables.exits[bar].sum, tables.exits[bar].squares, position, state);
  position.holding = false;
}

// At the start of a tile. What is held may have become so little that it is 0: flat, as on the CPU.
INLINE Position carried_over(i32 first_bar, const State& state) {
  const Position position = {first_bar, state.units > 0.0, true};
  return position;
}

// Go through 64 bars from change to change of the position: enter at the close of a bar whose
// `enter` bit is set while flat, leave where its `leave` bit is while holding. Bits of bars that do
// not exist are 0.
INLINE void through_word(const Tables& tables, i32 start, u64 enter, u64 leave, State& state,
                         Position& position) {
  u64 left = position.holding ? leave : enter;
  while (left != 0) {
    const i32 k = LOWEST_BIT(left);
    if (position.holding) {
      close_at(tables, start + k, state, position);
    } else {
      open_at(tables, start + k, state, position);
    }
    left = (position.holding ? leave : enter) & (FEW << k);
  }
}

INLINE void end_tile(const Tables& tables, i32 tile, i32 end, const Position& position,
                     State& state) {
  if (position.holding) {
    hold_until(tables, end, position, state);
    add_returns(tables, tables.tiles[tile].sum, tables.tiles[tile].squares, position, state);
  } else {
    state.units = 0.0;
  }
}

// Turn the final state into a row.
INLINE void finish(const Tables& tables, const State& state, double* row) {
  const double n = tables.n_bars;
  const double value =
      state.units > 0.0 ? state.units * tables.close[tables.n_bars - 1] : state.value;
  const double mean = state.sum * tables.unit_sum / n;
  const double spread = state.squares * tables.unit_squares - n * mean * mean;
  row[0] = value - 1.0;
  row[1] = tables.n_bars > 1 && spread > 0.0
               ? mean / sqrt(spread / (n - 1.0)) * sqrt(tables.bars_per_year)
               : NOT_A_NUMBER;
  row[2] = lower_of(state.worst, state.lowest / state.peak) - 1.0;
  row[3] = state.entries;
  row[4] = state.held_bars / n;
}

#endif
