"""What the soaks need of HTTP: requests as bytes, so that they can be wrong, and answers read as slowly as wanted."""

import asyncio
import json
import struct
import socket


class Closed(Exception):
    """The server closed before the answer was whole."""


def post(path, body, *extra, length=None):
    """The bytes of a request; `body` is an object or bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json",
            f"Content-Length: {len(data) if length is None else length}", *extra]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + data


def chunked(path, body, rng):
    """The same with a body in chunks of random lengths."""
    data = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", "Transfer-Encoding: chunked"]
    out = "\r\n".join(head).encode() + b"\r\n\r\n"
    while data:
        n = rng.randint(1, len(data))
        out += b"%x\r\n" % n + data[:n] + b"\r\n"
        data = data[n:]
    return out + b"0\r\n\r\n"


class Connection:
    def __init__(self, address):
        self.address = address

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection(*self.address, limit=1 << 22)
        return self

    async def __aexit__(self, *_):
        self.writer.close()

    def reset(self):
        """Leaves without a goodbye: the server sees a reset."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, slowly=None):
        """(status, headers, body); `slowly`: awaited before every read of a few bytes."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
            if "content-length" in headers:
                body = await self.exactly(int(headers["content-length"]), slowly)
            else:
                body = b""
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    body += await self.exactly(size, slowly)
                    await self.reader.readexactly(2)
                await self.reader.readexactly(2)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Closed(str(error)) from error
        return int(head[0].split()[1]), headers, body

    async def exactly(self, size, slowly):
        if slowly is None:
            return await self.reader.readexactly(size)
        out = b""
        while len(out) < size:
            await slowly()
            piece = await self.reader.read(min(64, size - len(out)))
            if not piece:
                raise Closed("end of file")
            out += piece
        return out


async def ask(address, data, slowly=None):
    async with Connection(address) as connection:
        await connection.send(data)
        return await connection.answer(slowly)


def joined(a, b):
    """Two pieces of log-probabilities one after the other: lists are joined, None stands for nothing."""
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, dict):
        return {key: joined(a.get(key), b.get(key)) for key in {**a, **b}}
    return a + b


def told(headers, body):
    """What a completion says, whether it came as a stream or whole: one [text, finish, logprobs] a choice."""
    if headers.get("content-type") != "text/event-stream":
        choices = json.loads(body)["choices"]
        return [[c["message"]["content"] if "message" in c else c["text"], c["finish_reason"], c["logprobs"]]
                for c in choices]
    events = [event.removeprefix("data: ") for event in body.decode().split("\n\n") if event]
    if events.pop() != "[DONE]":
        raise Closed("the stream has no end")
    out = {}
    for event in map(json.loads, events):
        for c in event["choices"]:
            text, finish, logprobs = out.get(c["index"], ["", None, None])
            piece = c["delta"].get("content") or "" if "delta" in c else c["text"]
            out[c["index"]] = [text + piece, c["finish_reason"] or finish, joined(logprobs, c["logprobs"])]
    return [out[i] for i in sorted(out)]
