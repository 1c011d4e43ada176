"""A CuPy RawModule of several kernels, any of which a stop ends.

allstop run --strategy docs/examples/gpu/cupy_raw_module.py:best_rule \
    --grid reversal=0,1 --grid threshold=0:0.02:0.001
"""

import functools

import cupy
import numpy as np

from supervisor import CUDA_INCLUDE

LAGS, THREADS = 4096, 256

SOURCE = r"""
#include <allstop.cuh>

// Be in the market after a rise over `lag` bars (Sign = 1), or after a fall (Sign = -1).
template <int Sign>
__device__ void follow(const double *close, int n_bars, double threshold, int first, int last,
                       double *total, const long long *stop) {
    const int tile_bars = 4096;
    int item = first + blockIdx.x * blockDim.x + threadIdx.x, lag = item + 1;
    double value = 1.0;
    for (int tile = 0; tile < n_bars; tile += tile_bars) {
        if (allstop_block_stop_requested(stop)) return;  // the whole block leaves, or none of it
        int end = min(tile + tile_bars, item < last ? n_bars : 0);
        for (int bar = max(tile, lag + 1); bar < end; bar++)
            if (Sign * (close[bar - 1] / close[bar - 1 - lag] - 1.0) > threshold)
                value *= close[bar] / close[bar - 1];
    }
    if (item < last) total[item] = value - 1.0;
}

extern "C" __global__ void momentum(const double *close, int n_bars, double threshold, int first,
                                    int last, double *total, const long long *stop) {
    follow<1>(close, n_bars, threshold, first, last, total, stop);
}

extern "C" __global__ void reversal(const double *close, int n_bars, double threshold, int first,
                                    int last, double *total, const long long *stop) {
    follow<-1>(close, n_bars, threshold, first, last, total, stop);
}
"""


@functools.cache
def kernels():
    """Compile once per worker, all kernels before the first one runs: loading waits for it."""
    module = cupy.RawModule(code=SOURCE, options=("-std=c++17", f"-I{CUDA_INCLUDE}"))
    return {name: module.get_function(name) for name in ("momentum", "reversal")}


def best_rule(bars, params, stop):
    kernel = kernels()["reversal" if params["reversal"] else "momentum"]
    close = cupy.asarray(bars.close)
    total = cupy.zeros(LAGS)
    done = cupy.cuda.Event(disable_timing=True)
    for items in stop.cuda.launches(LAGS, THREADS):  # one launch, unless the kernel cannot poll
        blocks = -(-len(items) // THREADS)
        arguments = (close, np.int32(close.size), np.float64(params["threshold"]))
        arguments += (np.int32(items.start), np.int32(items.stop), total)
        kernel((blocks,), (THREADS,), (*arguments, np.uint64(stop.device_pointer)))
        done.record()
        stop.cuda.wait(done)  # not synchronize(): that would be deaf to signals
    if stop.is_set():
        return None  # what the kernel has written is incomplete; resume computes it again
    best = int(total.argmax())
    return {"lag": best + 1, "total_return": float(total[best])}
