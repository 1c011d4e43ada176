// Combinations whose signals are known: one thread each, through rows of bits.
#include "accounting.cuh"
#include "poll.cuh"

// Rows lie side by side, word by word: the threads of a warp, whose rows are neighbours or the
// same, read a few cache lines for all of them.
struct Words {
  const u64* next;
  i32 n_rows;
};

INLINE u64 take(Words& words) {
  const u64 word = *words.next;
  words.next += words.n_rows;
  return word;
}

KERNEL sweep_signals(BY_VALUE Tables tables, BY_VALUE Stop stop, BY_VALUE Signals signals,
    BY_VALUE Batch batch) {
  const i32 mine = blockIdx.x * blockDim.x + threadIdx.x;
  const i32 c = mine < batch.n ? mine : batch.n - 1;  // every thread comes to every barrier
  Words enters = {signals.enter + signals.enter_at[c], signals.n_enter};
  Words leaves_ = {signals.leave + signals.leave_at[c], signals.n_leave};
  State state = at_start();
  Poll poll = no_poll();
  ask(stop, poll);
  for (i32 tile = 0; tile < tables.n_tiles; ++tile) {
    if (leaves(stop, poll, tile)) return;
    ask(stop, poll);  // answered within this tile, looked at in the next one
    const i32 first_bar = tile * TILE_BARS, end = tile_end(tables, first_bar);
    Position position = carried_over(first_bar, state);
    for (i32 start = first_bar; start < end; start += WORD) {
      const u64 exist = bars_before(start, end);
      const u64 enter = take(enters) & exist, leave = take(leaves_) & exist;
      through_word(tables, start, enter, leave, state, position);
    }
    end_tile(tables, tile, end, position, state);
  }
  if (mine < batch.n) finish(tables, state, batch.rows + 5ll * mine);
}
