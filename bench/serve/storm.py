"""Many requests, half of them by clients that one would rather not have. Whatever those do, every answer equals the one
that a server that runs it alone gives, memory does not grow, and every slot comes back."""

import asyncio
import collections
import random

import bodies
import client
import watch

KINDS = ("good", "good", "good", "good", "pipeline", "chunks", "slow", "leave", "leave", "reset", "half", "deaf",
         "malformed", "malformed", "oversized", "smuggle", "other")
CONTEXT = 512


class Storm:
    def __init__(self, server, seed, good, alone):
        self.address, self.seed, self.good, self.alone = server.endpoint, seed, good, alone
        self.done, self.wrong = collections.Counter(), []

    async def expect(self, i, number, connection, slowly=None):
        """The next answer on the connection is that of good request `number`."""
        status, headers, body = await connection.answer(slowly)
        seen = client.told(headers, body) if status == 200 else [status, body.decode()]
        if seen != self.alone[number]:
            self.wrong.append({"request": i, "asked": self.good[number], "alone": self.alone[number], "seen": seen})

    async def refused(self, i, data, statuses):
        try:
            status, _, body = await client.ask(self.address, data)
        except client.Closed as error:
            status, body = 0, repr(error).encode()
        if status not in statuses:
            self.wrong.append({"request": i, "sent": repr(data[:300]), "status": status, "seen": body.decode()[:300]})

    async def one(self, i):
        rng = random.Random(self.seed * 1000003 + i)
        kind = rng.choice(KINDS)
        self.done[kind] += 1
        number = rng.randrange(len(self.good))
        path, body = self.good[number]
        body = {**body, "stream": rng.random() < 0.5}
        whole = client.post(path, body)
        if kind == "malformed":
            return await self.refused(i, client.post(path, bodies.malformed(rng)), (400,))
        if kind == "oversized":
            long = bodies.text(rng, CONTEXT + rng.randrange(20000))
            if rng.random() < 0.3:
                return await self.refused(i, client.post(path, b"", length=1 << 30), (413,))
            return await self.refused(i, client.post("/v1/completions", {"prompt": long}), (400,))
        if kind == "smuggle":
            return await self.refused(i, bodies.smuggled(rng), (400,))
        if kind == "other":
            return await self.refused(i, rng.choice([
                client.post("/v1/complet\u0131ons", body), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50,
                whole.replace(b"application/json", b"text/plain"), whole.replace(b"POST", b"PUT", 1),
                b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/3.7\r\nHost: x\r\n\r\n",
            ]), (400, 404, 405, 415, 431, 505))
        async with client.Connection(self.address) as connection:
            if kind == "half":  # leaves in the middle of its question
                await connection.send(whole[: rng.randrange(1, len(whole))])
            elif kind in ("leave", "reset", "deaf"):  # in the middle of the answer, or without having read any of it
                await connection.send(client.post("/v1/completions", bodies.long(rng, CONTEXT)) * rng.choice([1, 1, 3]))
                if kind == "deaf":
                    await asyncio.sleep(rng.random() / 5)
                else:
                    await connection.reader.read(rng.randrange(1, 6000))
                if kind == "reset":
                    connection.reset()
            elif kind == "slow":
                await connection.send(whole)
                await self.expect(i, number, connection, slowly=lambda: asyncio.sleep(0.002))
            elif kind == "pipeline":
                others = [number] + [rng.randrange(len(self.good)) for _ in range(2)]
                await connection.send(b"".join(client.post(*self.good[k]) for k in others))
                for k in others:
                    await self.expect(i, k, connection)
            else:
                await connection.send(client.chunked(path, body, rng) if kind == "chunks" else whole)
                await self.expect(i, number, connection)

    async def run(self, count, clients):
        numbers = iter(range(count))

        async def work():
            for i in numbers:
                try:
                    await asyncio.wait_for(self.one(i), 120)
                except Exception as error:  # a soak reports what went wrong and goes on
                    self.wrong.append({"request": i, "error": repr(error)})
        await asyncio.gather(*(work() for _ in range(clients)))


async def answers_alone(server, good):
    out = []
    for path, body in good:
        status, headers, answer = await client.ask(server.endpoint, client.post(path, body))
        if status != 200:
            raise RuntimeError(f"a request that should be good got {status}: {body} {answer.decode()}")
        out.append(client.told(headers, answer))
    return out


async def soak(arguments, properties, start):
    rng = random.Random(arguments.seed)
    shared = bodies.text(rng, 150)
    good = [bodies.good(rng, shared) for _ in range(arguments.kinds)]
    with start("--no-prefix-cache", "--sequences", "1") as server:
        alone = await answers_alone(server, good)
    # A budget that fills soon: prefixes give way and sequences are put aside, too.
    with start("--sequences", "8", "--memory", "2MiB", "--remember", "10000") as server:
        storm = Storm(server, arguments.seed, good, alone)
        await storm.run(max(50, arguments.requests // 20), arguments.clients)  # caches and arenas are filled
        async with watch.Watch(server) as seen:
            await storm.run(arguments.requests, arguments.clients)
        rest = await watch.at_rest(server.endpoint)
        properties.check("the server still runs", server.process.poll() is None, server.process.poll())
        properties.check("every answer equals its single-run answer, every refusal has its status",
                         not storm.wrong, storm.wrong[:5] or dict(storm.done))
        properties.check("every slot and connection came back",
                         rest["rattan_sequences_running"] == rest["rattan_requests_waiting"] == 0
                         and rest["rattan_http_connections"] <= 1
                         and rest["rattan_state_bytes"] + rest["rattan_cache_bytes"] <= rest["rattan_memory_bytes"],
                         {k: v for k, v in rest.items() if "bucket" not in k and "http_answers" not in k})
        report = seen.report()
        properties.check("memory is flat over the last half", arguments.any_memory
                         or report["last_half_growth_mib"] <= arguments.most_growth, report)
        seconds = seen.samples[-1][0] - seen.samples[0][0]
    code = server.exit_code
    properties.check("SIGTERM ends it with exit code 0", code == 0, code)
    return {"requests": arguments.requests, "clients": arguments.clients, "seconds": round(seconds, 1),
            "by_kind": dict(storm.done), "memory": report, "preempted": rest["rattan_sequences_preempted_total"],
            "evicted": rest["rattan_cache_evictions_total"], "cancelled": rest["rattan_requests_cancelled_total"]}
