"""What is seen of a server from outside: its memory, its counters; and how a soak says what held."""

import asyncio
import pathlib
import re
import sys
import time

import client


class Watch:
    """Samples the server's resident memory while the `async with` block runs."""

    def __init__(self, server, every=0.25):
        self.pid, self.every, self.samples = server.process.pid, every, []

    def resident(self):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s*(\d+)", status)[1]) / 1024

    async def sample(self):
        while True:
            self.samples.append((time.monotonic(), self.resident()))
            await asyncio.sleep(self.every)

    async def __aenter__(self):
        self.task = asyncio.create_task(self.sample())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        self.samples.append((time.monotonic(), self.resident()))

    def growth(self):
        """MiB that a straight line through the samples of the last half rises from its begin to its end."""
        first, last = self.samples[0][0], self.samples[-1][0]
        half = [(t, m) for t, m in self.samples if t >= (first + last) / 2]
        n, mean_t, mean_m = len(half), sum(t for t, _ in half) / len(half), sum(m for _, m in half) / len(half)
        spread = sum((t - mean_t) ** 2 for t, _ in half)
        if n < 3 or spread == 0:
            return 0.0
        return sum((t - mean_t) * (m - mean_m) for t, m in half) / spread * (half[-1][0] - half[0][0])

    def report(self):
        quarters, n = [], len(self.samples)
        for i in range(4):
            part = [m for _, m in self.samples[n * i // 4:max(n * (i + 1) // 4, n * i // 4 + 1)]]
            quarters.append(round(sum(part) / len(part), 2))
        return {"mib_by_quarter": quarters, "last_half_growth_mib": round(self.growth(), 2),
                "highest_mib": round(max(m for _, m in self.samples), 2)}


async def metrics(address):
    _, _, body = await client.ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    lines = [line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


async def at_rest(address, seconds=30):
    """The counters once nothing runs or waits any more, and this connection is the only one; or the last ones seen."""
    for _ in range(int(seconds / 0.05)):
        seen = await metrics(address)
        if not seen["rattan_sequences_running"] and not seen["rattan_requests_waiting"] and \
                seen["rattan_http_connections"] <= 1:
            break
        await asyncio.sleep(0.05)
    return seen


class Properties:
    def __init__(self, part):
        self.part, self.all = part, []

    def check(self, name, holds, seen):
        self.all.append({"property": name, "holds": bool(holds), "seen": seen})
        print(f"{self.part}: {'holds' if holds else 'FAILS'}: {name} ({seen})", file=sys.stderr, flush=True)


def percentile(values, share):
    """The smallest value that a share of all does not exceed, in milliseconds."""
    if not values:
        return None
    values = sorted(values)
    return round(1e3 * values[max(0, -(-int(share * 1000) * len(values) // 1000) - 1)], 2)


def latencies(values):
    return {"count": len(values), **{f"p{s}_ms": percentile(values, s / 100) for s in (50, 90, 99)}}
