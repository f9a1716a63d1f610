"""A mixed trace for a long time: conversations that go on, long prompts, short questions and clients that leave arrive
by chance. Latency at the end is what it was in the beginning, and so is memory."""

import asyncio
import random
import time

import bodies
import client
import watch

CONTEXT = 512


class Trace:
    def __init__(self, server, seed):
        self.address, self.rng, self.done, self.failures = server.endpoint, random.Random(seed), [], []
        self.shared = bodies.text(self.rng, 120)

    async def stream(self, path, body, leaves=False):
        """The text of a streamed answer; notes when it was due, its first event and its end, and how long it is."""
        due = time.monotonic()
        async with client.Connection(self.address) as connection:
            await connection.send(client.post(path, {**body, "stream": True}))
            head = await connection.reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                self.failures.append({"asked": body, "head": head.decode()})
                return None
            first = None
            out = b""
            while size := int(await connection.reader.readuntil(b"\r\n"), 16):
                out += await connection.reader.readexactly(size + 2)
                first = first or time.monotonic()
                if leaves and len(out) > 500:
                    return None
            end = time.monotonic()
        [[text, _, _]] = client.told({"content-type": "text/event-stream"}, out.replace(b"\r\n", b""))
        self.done.append((due, first - due, end - due))
        return text

    async def conversation(self, rng):
        messages = [{"role": "system", "content": self.shared}]
        for _ in range(rng.randint(1, 3)):
            messages.append({"role": "user", "content": bodies.text(rng, rng.randint(5, 20))})
            body = {"messages": messages, "max_tokens": 24, "seed": rng.randrange(1000), "stop": ["\n"]}
            said = await self.stream("/v1/chat/completions", body)
            if said is None:
                return
            messages = messages + [{"role": "assistant", "content": said}]
            await asyncio.sleep(rng.random())

    async def one(self, number):
        rng = random.Random(number)
        kind = rng.random()
        try:
            if kind < 0.5:
                return await self.conversation(rng)
            if kind < 0.6:
                return await self.stream("/v1/completions", bodies.long(rng, CONTEXT), leaves=True)
            size = rng.randint(300, 400) if kind < 0.7 else rng.randint(5, 60)
            prompt = "".join(rng.choice("abc def") for _ in range(size))
            await self.stream("/v1/completions", {"prompt": prompt, "max_tokens": 32, "ignore_eos": True})
        except Exception as error:  # a soak reports what went wrong and goes on
            self.failures.append({"arrival": number, "error": repr(error)})

    async def run(self, seconds, rate):
        end, tasks, number = time.monotonic() + seconds, set(), 0
        while time.monotonic() < end:
            task = asyncio.create_task(self.one(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
            await asyncio.sleep(self.rng.expovariate(rate))
        await asyncio.gather(*tasks)


async def soak(arguments, properties, start):
    with start("--sequences", "16", "--memory", "1MiB", "--remember", "5000") as server:  # caches that are soon full
        trace = Trace(server, arguments.seed)
        await trace.run(max(2, arguments.seconds / 30), arguments.rate)
        trace.done.clear()
        began = time.monotonic()
        async with watch.Watch(server) as seen:
            await trace.run(arguments.seconds, arguments.rate)
        rest = await watch.at_rest(server.endpoint)
        properties.check("the server still runs", server.process.poll() is None, server.process.poll())
    parts, n = [], 6
    for i in range(n):
        low, high = (began + arguments.seconds * k / n for k in (i, i + 1))
        part = [d for d in trace.done if low <= d[0] < high]
        parts.append({"first_token": watch.latencies([d[1] for d in part]),
                      "request": watch.latencies([d[2] for d in part])})
    properties.check("no request failed", not trace.failures, trace.failures[:5] or len(trace.done))
    properties.check("every slot and connection came back",
                     rest["rattan_sequences_running"] == 0 and rest["rattan_http_connections"] <= 1,
                     {k: rest[k] for k in ("rattan_sequences_running", "rattan_http_connections")})
    report = seen.report()
    properties.check("memory is flat over the last half", report["last_half_growth_mib"] <= arguments.most_growth,
                     report)
    if not arguments.any_latency:
        halves = [watch.percentile([d[2] for d in trace.done if (d[0] - began < arguments.seconds / 2) == early], 0.99)
                  for early in (True, False)]
        properties.check("p99 latency of the second half is at most 1.25 times that of the first",
                         halves[1] <= 1.25 * halves[0], {"p99_ms_by_half": halves})
    return {"seconds": arguments.seconds, "rate": arguments.rate, "requests": len(trace.done), "by_sixth": parts,
            "memory": report, "reused_tokens": rest["rattan_reused_tokens_total"],
            "prompt_tokens": rest["rattan_prompt_tokens_total"]}
