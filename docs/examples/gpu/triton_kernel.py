"""A Triton kernel that a stop ends: the best of 4,096 momentum rules for each threshold.

allstop run --strategy docs/examples/gpu/triton_kernel.py:momentum --grid threshold=0:0.02:0.001
"""

import torch
import triton
import triton.language as tl

LAGS, BLOCK, TILE_BARS = 4096, 128, 4096


@triton.jit
def stop_requested(flag, BLOCK: tl.constexpr):
    """Whether a stop was requested; the same answer for the whole program.

    The load is volatile, or it would be lifted out of the loop. One thread does it, and the
    maximum hands its answer round: were each to ask for itself, some could leave before others.
    """
    word = flag.to(tl.pointer_type(tl.int64))  # the address comes as a number
    lanes = tl.arange(0, BLOCK)
    asked = tl.load(word + tl.zeros_like(lanes), mask=lanes == 0, other=0, volatile=True)
    return tl.max(asked, axis=0) != 0


@triton.jit
def best_lag(
    close,
    n_bars,
    threshold: tl.float64,
    first,
    last,
    total,
    flag,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):
    """Be in the market after a bar that has risen by more than ``threshold`` over ``lag`` bars."""
    item = first + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lag = item + 1
    value = tl.full((BLOCK,), 1.0, tl.float64)
    tile = 0
    while (tile < n_bars) and not stop_requested(flag, BLOCK):
        for bar in range(tile + 1, tl.minimum(tile + TILE, n_bars - 1) + 1):
            before = tl.load(close + bar - 1)
            defined = bar - 1 >= lag
            earlier = tl.load(close + bar - 1 - lag, mask=defined, other=float("inf"))
            rose = before > earlier * (1.0 + threshold)
            value = tl.where(rose, value * (tl.load(close + bar) / before), value)
        tile += TILE
    tl.store(total + item, value - 1.0, mask=item < last)


def momentum(bars, params, stop):
    close = torch.tensor(bars.close, device="cuda")
    total = torch.zeros(LAGS, dtype=torch.float64, device="cuda")
    done = torch.cuda.Event()
    for items in stop.cuda.launches(LAGS, BLOCK):  # one launch, unless the kernel cannot poll
        programs = -(-len(items) // BLOCK)
        best_lag[(programs,)](
            close, len(close), float(params["threshold"]), items.start, items.stop, total,
            stop.device_pointer, BLOCK=BLOCK, TILE=TILE_BARS, num_warps=BLOCK // 32,
        )  # fmt: skip
        done.record()
        stop.cuda.wait(done)  # not synchronize(): that would be deaf to signals
    if stop.is_set():
        return None  # what the kernel has written is incomplete; resume computes it again
    best = int(total.argmax())
    return {"lag": best + 1, "total_return": float(total[best])}
