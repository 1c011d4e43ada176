"""PyTorch's own operators cannot poll: look at the flag between batches of them.

allstop run --strategy docs/examples/gpu/torch_operators.py:momentum --grid threshold=0:0.02:0.001
"""

import torch

LAGS, BATCH = 4096, 16


def momentum(bars, params, stop, device="cuda"):
    """Be in the market after a bar that has risen by more than ``threshold`` over ``lag`` bars."""
    close = torch.tensor(bars.close, device=device)
    growth = close[1:] / close[:-1]
    total = torch.zeros(LAGS, dtype=torch.float64, device=device)
    one = torch.ones((), dtype=torch.float64, device=device)
    for first in range(0, LAGS, BATCH):
        if stop.is_set():
            return None  # resume computes it again
        for lag in range(first + 1, first + BATCH + 1):
            rose = close[lag:-1] > close[: -lag - 1] * (1.0 + params["threshold"])
            total[lag - 1] = torch.where(rose, growth[lag:], one).prod() - 1.0
        if device == "cuda":
            done = torch.cuda.Event()
            done.record()
            stop.cuda.wait(done)  # else Python queues batches far ahead of the device
    best = int(total.argmax())
    return {"lag": best + 1, "total_return": float(total[best])}
