"""A numba.cuda kernel that a stop ends: the best of 4,096 momentum rules for each threshold.

allstop run --strategy docs/examples/gpu/numba_kernel.py:momentum --grid threshold=0:0.02:0.001
"""

import numpy as np
from numba import cuda

from workers.poll import stop_requested

LAGS, THREADS, TILE_BARS = 4096, 256, 4096


@cuda.jit
def best_lag(close, threshold, first, last, total, flag):
    """Be in the market after a bar that has risen by more than ``threshold`` over ``lag`` bars."""
    item = first + cuda.grid(1)
    lag = item + 1
    value = 1.0
    for tile in range(0, close.size, TILE_BARS):
        # one thread asks, and the whole block leaves or none of it
        if cuda.syncthreads_or(np.int32(cuda.threadIdx.x == 0 and stop_requested(flag))):
            return
        if item < last:
            for bar in range(max(tile, lag + 1), min(tile + TILE_BARS, close.size)):
                if close[bar - 1] > close[bar - 1 - lag] * (1.0 + threshold):
                    value *= close[bar] / close[bar - 1]
    if item < last:
        total[item] = value - 1.0


def momentum(bars, params, stop):
    close = cuda.to_device(bars.close)
    total = cuda.to_device(np.zeros(LAGS))
    flag = np.uint64(stop.device_pointer)
    done = cuda.event(timing=False)
    for items in stop.cuda.launches(LAGS, THREADS):  # one launch, unless the kernel cannot poll
        blocks = -(-len(items) // THREADS)
        best_lag[blocks, THREADS](
            close, float(params["threshold"]), items.start, items.stop, total, flag
        )
        done.record()
        stop.cuda.wait(done)  # not synchronize(): that would be deaf to signals
    if stop.is_set():
        return None  # what the kernel has written is incomplete; resume computes it again
    totals = total.copy_to_host()
    return {"lag": int(totals.argmax()) + 1, "total_return": float(totals.max())}
