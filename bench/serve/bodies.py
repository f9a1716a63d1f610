"""The requests of the soaks: good ones of all kinds, and bad ones with the status that each must get."""

import json

ALPHABET = "abcdefgh ABC\n.,0123456789\u00e4\u20ac\u732b"


def text(rng, length):
    return "".join(rng.choice(ALPHABET) for _ in range(length))


def good(rng, shared):
    """(path, body): some kind of completion, decided by its seed wholly; `shared` is a text that many begin with."""
    body = {"seed": rng.randrange(1 << 31), "max_tokens": rng.choice([1, 3, 8, 20, 48]),
            "temperature": rng.choice([0, 0.7, 1, 1.5])}
    if rng.random() < 0.3:
        body.update(rng.choice([{"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"presence_penalty": 0.5},
                                {"frequency_penalty": 0.4, "repetition_penalty": 1.1}, {"logit_bias": {"97": 4}},
                                {"stop": ["a", "\n"]}, {"ignore_eos": True}]))
    if rng.random() < 0.2:
        body["n"] = rng.randint(2, 3)
    begin = shared[: rng.randrange(len(shared))] if rng.random() < 0.5 else ""
    if rng.random() < 0.4:
        body["messages"] = [{"role": "user", "content": begin + text(rng, rng.randint(1, 40))}]
        for _ in range(rng.randrange(3)):
            body["messages"] += [{"role": "assistant", "content": text(rng, rng.randint(1, 20))},
                                 {"role": "user", "content": text(rng, rng.randint(1, 20))}]
        if rng.random() < 0.3:
            body.update(logprobs=True, top_logprobs=2)
        return "/v1/chat/completions", body
    prompts = [begin + text(rng, rng.randint(1, 60)) for _ in range(rng.choice([1, 1, 1, 2]))]
    if rng.random() < 0.3:
        prompts = [list(prompt.encode()) for prompt in prompts]
    body["prompt"] = prompts if len(prompts) > 1 else prompts[0]
    if rng.random() < 0.3:
        body.update(logprobs=rng.randint(0, 3), echo=rng.random() < 0.5)
    elif rng.random() < 0.2 and "ignore_eos" not in body:
        body["response_format"] = {"type": "regex", "pattern": "[a-d]{2,6}(, [0-9]+)*"}
    return "/v1/completions", body


def long(rng, context):
    """A body that takes a while and makes a stream that is worth leaving."""
    return {"prompt": text(rng, rng.randint(1, 40)), "max_tokens": context // 2, "stream": True, "ignore_eos": True,
            "temperature": 1, "seed": rng.randrange(1 << 31)}


def malformed(rng):
    """Bytes that are no valid body of a completion: status 400."""
    body = json.dumps({"prompt": text(rng, 20), "max_tokens": 5}).encode()
    cut = rng.randrange(1, len(body) - 1)
    return rng.choice([
        b"", b"null", b"[]", b"7", b'"a"', body[:cut], body + body, body[:cut] + b"\xff" + body[cut:],
        body[:cut] + b"\0" + body[cut:], b'{"prompt": NaN}', b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": Infinity}', b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "max_tokens": 99999999999999999999999}', b'{"prompt": "a", "max_tokens": -1}',
        b'{"prompt": "a", "max_tokens": 1.5}', b'{"prompt": "a", "max_tokens": "5"}', b'{"prompt": "a", "seed": []}',
        b'{"prompt": "a", "prompt": "b"}', b'{"prompt": {"a": 1}}', b'{"prompt": [[]]}', b'{"prompt": []}',
        b'{"prompt": ""}', b'{"prompt": [99999999]}', b'{"prompt": [-1]}', b'{"prompt": [1.5]}', b'{"max_tokens": 5}',
        b'{"prompt": "a", "no_such": 1}', b'{"prompt": "a", "suffix": "b"}', b'{"prompt": "a", "n": 0}',
        b'{"prompt": "a", "n": 1000000}', b'{"prompt": "a", "logit_bias": {"x": 1}}',
        b'{"prompt": "a", "stop": [""]}', b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "response_format": {"type": "regex", "pattern": "(a"}}',
        b'{"prompt": ' + b"[" * 100000 + b"]" * 100000 + b"}", b'{"a":' * 5000 + b"1" + b"}" * 5000,
    ])


def smuggled(rng):
    """A whole request that two readers could take for different ones, with another one behind it: status 400."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    shape = rng.choice([
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", b"Content-Length: 2, 2\r\n\r\n{}",
        b"Content-Length: +2\r\n\r\n{}", b"Content-Length : 2\r\n\r\n{}", b"Transfer-Encoding: xchunked\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        b"X: a\nContent-Length: 2\r\n\r\n{}",
    ])
    return head + shape + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
