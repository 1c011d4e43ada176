// All kernels as C functions: launch_<kernel>(arguments, blocks, threads), where arguments[i] points
// to the i-th argument, as for cuLaunchKernel. Shared memory is of exactly the size that layout.cuh
// tells, so that a sanitizer sees what lies beyond.
#include "portable.hpp"

#include <atomic>
#include <cstddef>
#include <utility>
#include <vector>

#ifndef SERIAL
#include <barrier>
#include <memory>
#include <thread>
#endif

#include "crosses.cu"
#include "fills.cu"
#include "signals.cu"

namespace machine {

#ifndef SERIAL
thread_local Index block_index, thread_index, block_size;
int* shared;
#endif

// A stop that comes at a known instant: when blocks have polled so often since `stop_at_poll`.
static std::atomic<long long> polls, stop_at;
static long long* flag;

static void count_poll() {
  if (thread_index.x == 0 && ++polls == stop_at) *flag = 1;
}

#ifdef SERIAL

bool any(bool mine) {
  count_poll();
  return mine;
}

template <typename Kernel>
void run(int blocks, int threads, size_t shared_bytes, Kernel kernel) {
  std::vector<int> memory(shared_bytes / sizeof(int));
  shared = memory.data();
  block_size = {1};
  thread_index = {0};
  for (int b = 0; b < blocks * threads; ++b) {
    block_index = {b};
    kernel();
  }
}

#else

constexpr int warp_size = 32;

// Threads that wait for each other and learn each other's votes.
class Group {
 public:
  explicit Group(int n) : barrier_(n), votes_(n) {}

  void wait() { barrier_.arrive_and_wait(); }

  bool any(int at, bool mine) {
    votes_[at] = mine;
    wait();
    bool found = false;
    for (char vote : votes_) found |= vote != 0;
    wait();  // no thread votes again before all have counted
    return found;
  }

 private:
  std::barrier<> barrier_;
  std::vector<char> votes_;
};

static std::unique_ptr<Group> block;
static std::vector<std::unique_ptr<Group>> warps;

void barrier() { block->wait(); }

bool any(bool mine) {
#ifdef DROP_LEAVING
  const bool found = mine;
#else
  const bool found = block->any(thread_index.x, mine);
#endif
  count_poll();
  return found;
}

bool warp_all(bool mine) {
  return !warps[thread_index.x / warp_size]->any(thread_index.x % warp_size, !mine);
}

template <typename Kernel>
void run(int blocks, int threads, size_t shared_bytes, Kernel kernel) {
  for (int b = 0; b < blocks; ++b) {
    std::vector<int> memory(shared_bytes / sizeof(int));
    shared = memory.data();
    block = std::make_unique<Group>(threads);
    warps.clear();
    for (int w = 0; w < threads / warp_size; ++w) warps.push_back(std::make_unique<Group>(warp_size));
    std::vector<std::thread> all;
    for (int t = 0; t < threads; ++t) {
      all.emplace_back([=] {
        block_index = {b};
        thread_index = {t};
        block_size = {threads};
        kernel();
      });
    }
    for (std::thread& thread : all) thread.join();
  }
}

#endif

template <typename... Argument, size_t... I>
void launch(void (*kernel)(Argument...), void** arguments, int blocks, int threads,
            size_t shared_bytes, std::index_sequence<I...>) {
  run(blocks, threads, shared_bytes,
      [=] { kernel(*static_cast<const Argument*>(arguments[I])...); });
}

template <typename... Argument>
void launch(void (*kernel)(Argument...), void** arguments, int blocks, int threads,
            size_t shared_bytes = 0) {
  launch(kernel, arguments, blocks, threads, shared_bytes, std::index_sequence_for<Argument...>());
}

}  // namespace machine

#define LAUNCH(kernel)                                                            \
  extern "C" void launch_##kernel(void** arguments, int blocks, int threads) {    \
    machine::launch(kernel, arguments, blocks, threads);                          \
  }

LAUNCH(sweep_crosses_far)
LAUNCH(sweep_crosses_wide)
LAUNCH(fill_ranges)
LAUNCH(sweep_signals)
LAUNCH(fill_bands)
LAUNCH(fill_rsi)
LAUNCH(raise_ladder)
LAUNCH(fill_breakouts)

extern "C" void launch_sweep_crosses(void** arguments, int blocks, int threads) {
  const size_t reach = static_cast<const Crosses*>(arguments[2])->reach;
  machine::launch(sweep_crosses, arguments, blocks, threads, 4 * (reach + TILE_BARS + 1));
}

extern "C" void stop_at_poll(long long n, long long* flag) {
  machine::polls = 0;
  machine::flag = flag;
  machine::stop_at = n;
}

extern "C" long long polls_seen() { return machine::polls; }
