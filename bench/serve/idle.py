"""Thousands of connections that ask nothing. Those who do ask notice nothing of them."""

import asyncio
import random
import resource
import time

import bodies
import client
import watch


async def ask_all(server, good, alone, wrong, clients=4):
    """Seconds of every request."""
    seconds, numbers = [], iter(range(len(good)))

    async def work():
        for i in numbers:
            began = time.monotonic()
            _, headers, body = await client.ask(server.endpoint, client.post(*good[i]))
            seconds.append(time.monotonic() - began)
            if client.told(headers, body) != alone[i]:
                wrong.append({"asked": good[i], "alone": alone[i], "seen": body.decode()})
    await asyncio.gather(*(work() for _ in range(clients)))
    return seconds


async def open_many(server, count, rng):
    """Connections: most say nothing, some began a request, some had one answered and stay."""
    out = []

    async def one():
        connection = await client.Connection(server.endpoint).__aenter__()
        out.append(connection)
        kind = rng.random()
        if kind < 0.1:
            await connection.send(b"GET /health HTTP/1.1\r\nHo")
        elif kind < 0.2:
            await connection.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            await connection.answer()
    for first in range(0, count, 200):
        await asyncio.gather(*(one() for _ in range(min(200, count - first))))
    return out


async def round_of(arguments, properties, start, flags, all_stay):
    rng = random.Random(arguments.seed)
    shared = bodies.text(rng, 100)
    good = [bodies.good(rng, shared) for _ in range(200)]
    wrong = []
    with start(*flags) as server:
        alone = [client.told(h, b) for _, h, b in [await client.ask(server.endpoint, client.post(*g)) for g in good]]
        memory = watch.Watch(server)
        await ask_all(server, good, alone, wrong)
        before, resident = await ask_all(server, good, alone, wrong), memory.resident()
        began = time.monotonic()
        crowd = await open_many(server, arguments.connections, rng)
        opened = time.monotonic() - began
        held, crowded = (await watch.metrics(server.endpoint))["rattan_http_connections"], memory.resident()
        during = await ask_all(server, good, alone, wrong)
        for connection in crowd:
            connection.writer.close()
        rest = await watch.at_rest(server.endpoint)
    name = "idle connections" if all_stay else "idle connections over the limit"
    properties.check(f"{name}: every answer as before", not wrong, wrong[:3] or 3 * len(good))
    # Those that began a request are given ten seconds, so a slow opening may have lost some of them.
    properties.check(f"{name}: " + ("they stay open" if all_stay else "the oldest gave way"),
                     held >= 0.85 * arguments.connections if all_stay else held <= 4096, held)
    properties.check(f"{name}: all places came back", rest["rattan_http_connections"] <= 1,
                     rest["rattan_http_connections"])
    p = {"before": watch.latencies(before), "during": watch.latencies(during)}
    if not arguments.any_latency:
        properties.check(f"{name}: the others' latency stays within a factor of 1.5",
                         all(p["during"][q] <= 1.5 * p["before"][q] + 5 for q in ("p50_ms", "p99_ms")), p)
    return {"connections": arguments.connections, "held": held, "seconds_to_open": round(opened, 2), **p,
            "kib_a_connection": round((crowded - resident) * 1024 / held, 2)}


async def soak(arguments, properties, start):
    need = arguments.connections + 500
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < need:
        raise RuntimeError(f"{arguments.connections} connections need {need} open files, and the limit is {hard} "
                           "(ulimit -Hn); take fewer with --connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(need, resource.getrlimit(resource.RLIMIT_NOFILE)[0]), hard))
    stay = await round_of(arguments, properties, start, ("--max-connections", str(need)), True)
    over = await round_of(arguments, properties, start, (), False)
    return {"within the limit": stay, "over the limit of 4096": over}
