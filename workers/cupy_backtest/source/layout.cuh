// What the host passes to the kernels, byte for byte, and how each kernel is launched.
//
// Every kernel takes structs by value. Pointers are device addresses of C-contiguous arrays.
// Time is cut as on the CPU (workers/kernels/blocks.py): 64 bars to a block, one bit of a word
// each; 64 blocks to a tile. Arrays over time are padded to whole tiles unless it says `n_bars`.
//
// A launch is one-dimensional: `blocks_x` blocks of `threads` threads, threads a multiple of 32
// and at most 256, dynamic shared memory only where it says so. `ceil` rounds up.
//
// kernel               arguments                       blocks_x                            shared bytes
// -- crosses.cu
// sweep_crosses        Tables, Stop, Crosses, Batch    ceil(n / threads)                   4 * (reach + 4097)
// sweep_crosses_far    Tables, Stop, Crosses, Batch    ceil(n / threads)                   0
// sweep_crosses_wide   Tables, Stop, Crosses, Batch    ceil(n / threads)                   0
// fill_ranges          Stop, Ranges                    n_tiles * ceil(n_windows / threads) 0
// -- signals.cu
// sweep_signals        Tables, Stop, Signals, Batch    ceil(n / threads)                   0
// -- fills.cu
// fill_bands           Stop, Bands                     ceil(n_rows / threads)              0
// fill_rsi             Stop, Levels                    ceil(n_rows / threads)              0
// raise_ladder         Stop, Ladder                    n_tiles                             0
// fill_breakouts       Stop, Breakouts                 n_tiles * ceil(n_rows / threads)    0
//
// A kernel that leaves because a stop was requested sets `*stop.unfinished` to 1; what it writes
// is then worthless. The host zeroes the word before the launch. fill_ranges works from float64
// sums, sweep_crosses and sweep_crosses_far from wrapped int32 sums, for which the host has
// checked tables.fits_in_32_bits; sweep_crosses_wide from float64 sums, for any prices at all.
#ifndef LAYOUT_CUH
#define LAYOUT_CUH

typedef long long i64;
typedef unsigned long long u64;
typedef int i32;
typedef unsigned int u32;

// What a fill at one bar's close needs; FILL in workers/kernels/prefix_tables.py.
struct alignas(16) Fill {
  i64 sum, squares;
  double low, high;
};

// Lowest and highest close of some blocks; SPAN there.
struct alignas(16) Span {
  double low, high;
};

// Running sums at a tile's end; SUMS there.
struct alignas(16) Sums {
  i64 sum, squares;
};

// The prefix tables: fields and shapes as in workers/kernels/prefix_tables.py. 104 bytes.
struct Tables {
  const double* close;   // [n_bars]
  const Fill* entries;   // [n_bars]
  const Fill* exits;     // [n_bars + 1]
  const Span* spans;     // [6 * n_blocks], element level * n_blocks + block
  const double* falls;   // [n_blocks]
  const Sums* tiles;     // [n_tiles]
  double entry_factor;   // 1 / (1 + fee)
  double exit_factor;    // 1 - fee
  double unit_sum;
  double unit_squares;
  double bars_per_year;
  i32 n_bars;
  i32 n_tiles;           // ceil(n_bars / 4096)
  i32 n_blocks;          // ceil(n_bars / 64)
  i32 unused;
};

// Where a stop is seen, and where leaving early is said. 24 bytes.
struct Stop {
  const volatile i64* flag;  // non-zero once a stop is requested
  volatile i32* seen;        // device memory: a block has read so; 0 before the launch
  i32* unfinished;           // device memory: a block has left, output
};

// The combinations of a launch. 16 bytes.
struct Batch {
  double* rows;  // [n][5], columns as in workers/catalog.py; every element is written
  i32 n;
  i32 unused;
};

// Lowest and highest moving average within one block of 64 bars, rounded outward.
struct alignas(8) Range {
  float low, high;
};

// Pairs of averages. 64 bytes.
struct Crosses {
  const void* sums;     // int32, or float64 for sweep_crosses_wide: [front + n_tiles * 4096 + 1],
                        // element front + i is the sum of the first i prices, zeros before
  const Range* ranges;  // [n_tiles * 64][n_windows] from fill_ranges, or null: every bar compared
  const i32* fast;      // [n] bars in the averages, fast < slow
  const i32* slow;      // [n]
  const i32* fast_at;   // [n] the averages' columns in `ranges`; not read where that is null
  const i32* slow_at;   // [n]
  i32 front;            // at least reach
  i32 reach;            // the longest of `slow`
  i32 n_windows;
  i32 unused;
};

// What fill_ranges needs. 40 bytes.
struct Ranges {
  const double* sums;  // as in Crosses, float64
  const i32* windows;  // [n_windows], each at most front
  Range* ranges;       // [n_tiles * 64][n_windows], output
  i32 front;
  i32 n_bars;
  i32 n_tiles;
  i32 n_windows;
};

// Rows of signals, a bit per bar, word by word: element word * n_rows + row. 40 bytes.
struct Signals {
  const u64* enter;     // [n_tiles * 64][n_enter]
  const u64* leave;     // [n_tiles * 64][n_leave]
  const i32* enter_at;  // [n] each combination's row in `enter`
  const i32* leave_at;  // [n]
  i32 n_enter;
  i32 n_leave;
};

// Rows of signals of curves below or above a level each. 48 bytes.
struct Levels {
  const double* prices;  // [n_bars]
  const i32* windows;    // [n_rows]
  const double* bounds;  // [n_rows]
  const i32* above;      // [n_rows] 0: set where curve < bound; 1: where curve > bound
  u64* words;            // [n_tiles * 64][n_rows], output
  i32 n_bars;
  i32 n_rows;
};

// Rows of signals of prices below the band of a width, or above the average. 72 bytes.
struct Bands {
  const i64* prices;        // [n_bars] whole numbers
  const i32* windows;       // [n_rows]
  const i32* shifts;        // [n_rows] binary digits of the prices to drop
  const double* widths;     // [n_rows]
  const u64* numerators;    // [n_rows] of the widths
  const u64* denominators;  // [n_rows]
  const i32* above;         // [n_rows] 0: set below the band; 1: above the average
  u64* words;               // [n_tiles * 64][n_rows], output
  i32 n_bars;
  i32 n_rows;
};

// Highest price of 1, 2, 4, ... bars from each bar on. 16 bytes.
// The host copies the prices (highs, or negated lows) to level 0 and launches raise_ladder for
// level 1, then 2, ... up to floor(log2(longest window)), one after the other.
struct Ladder {
  double* ladder;  // [levels][n_bars]
  i32 n_bars;
  i32 level;       // the one to fill, from the one below
};

// Rows of signals of prices above the highest of the bars before. 40 bytes.
struct Breakouts {
  const double* close;   // [n_bars] closes, or negated closes
  const double* ladder;  // [levels][n_bars] of highs, or of negated lows
  const i32* windows;    // [n_rows]
  u64* words;            // [n_tiles * 64][n_rows], output
  i32 n_bars;
  i32 n_rows;
};

#endif
