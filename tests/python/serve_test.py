"""The official `openai` package drives a running server; what it gets equals what `rattan generate` and `rattan score`
say of the same model."""

import concurrent.futures
import json
import math
import pathlib
import socket
import subprocess
import tempfile
import threading
import unittest

import openai

from served_model import Server

PROMPT = "In the beginning"
KEY = "0123456789abcdef"


class Serve(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server().__enter__()
        cls.client = openai.OpenAI(base_url=cls.server.url + "/v1", api_key="none", max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def program(self, *arguments):
        return self.program_without_threads(*arguments, "--threads", "1")

    def program_without_threads(self, *arguments):
        out = subprocess.run([self.server.program, *arguments, "--json"], check=True, capture_output=True, text=True)
        return json.loads(out.stdout)

    def test_a_completion_is_what_the_program_generates(self):
        made = self.program("generate", str(self.server.model), "--prompt", PROMPT, "--max-tokens", "30", "--greedy")
        answer = self.client.completions.create(model="tiny", prompt=PROMPT, max_tokens=30, temperature=0)
        self.assertEqual(answer.choices[0].text, made["samples"][0]["text"])
        self.assertEqual(answer.usage.completion_tokens, len(made["samples"][0]["tokens"]))
        ids = list(PROMPT.encode())
        by_ids = self.client.completions.create(model="tiny", prompt=ids, max_tokens=30, temperature=0)
        self.assertEqual(by_ids.choices[0].text, answer.choices[0].text)

    def test_log_probabilities_are_what_the_program_scores(self):
        scored = self.program("score", str(self.server.model), "--text", PROMPT)
        answer = self.client.completions.create(
            model="tiny", prompt=PROMPT, max_tokens=1, temperature=0, echo=True, logprobs=3)
        told = answer.choices[0].logprobs.token_logprobs
        self.assertIsNone(told[0])
        # Both are sums in fp32 over 257 logits of about 10; a token may be read in another piece.
        for mine, theirs in zip(told[1:len(PROMPT)], scored["logprobs"][1:], strict=True):
            self.assertAlmostEqual(mine, theirs, delta=2e-4)
        top = answer.choices[0].logprobs.top_logprobs[-1]
        self.assertEqual(max(top.values()), told[-1], "greedy takes the most probable token")

    def test_streams_are_the_whole_in_pieces(self):
        settings = dict(model="tiny", prompt=[PROMPT, "And"], max_tokens=20, temperature=0.8, seed=7, n=2)
        whole = self.client.completions.create(**settings)
        text, usage = {}, None
        for event in self.client.completions.create(**settings, stream=True, stream_options={"include_usage": True}):
            usage = event.usage or usage
            for choice in event.choices:
                text[choice.index] = text.get(choice.index, "") + choice.text
        self.assertEqual([text[i] for i in range(4)], [choice.text for choice in whole.choices])
        self.assertEqual(usage.completion_tokens, whole.usage.completion_tokens)

    def test_chat_goes_on_where_it_was(self):
        messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello, " * 20}]
        settings = dict(model="tiny", temperature=0, max_tokens=16, stop=["\n"])
        first = self.client.chat.completions.create(messages=messages, **settings)
        self.assertEqual(first.choices[0].message.role, "assistant")
        messages += [{"role": "assistant", "content": first.choices[0].message.content}, {"role": "user", "content": "Go on"}]
        second = self.client.chat.completions.create(messages=messages, **settings)
        self.assertGreater(second.usage.prompt_tokens_details.cached_tokens, first.usage.prompt_tokens - 2 * 8,
                           "the second turn should have found the first one in the cache")
        streamed = "".join(
            event.choices[0].delta.content or ""
            for event in self.client.chat.completions.create(messages=messages, stream=True, **settings))
        self.assertEqual(streamed, second.choices[0].message.content)

    def test_many_at_once_get_what_one_gets(self):
        def ask(i):
            return self.client.completions.create(
                model="tiny", prompt=PROMPT[: 3 + i], max_tokens=12, seed=i, temperature=1).choices[0].text
        alone = [ask(i) for i in range(8)]
        together = [None] * 8
        threads = [threading.Thread(target=lambda i=i: together.__setitem__(i, ask(i))) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(alone, together)

    def test_refusals_have_their_types(self):
        with self.assertRaises(openai.NotFoundError):
            self.client.completions.create(model="other", prompt="a")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.completions.create(model="tiny", prompt="a", max_tokens=100000)
        self.assertEqual(caught.exception.code, "context_length_exceeded")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "a"}],
                tools=[{"type": "function", "function": {"name": "f"}}])
        self.assertEqual(caught.exception.param, "tools")

    def test_a_client_that_leaves_frees_its_place(self):
        stream = self.client.completions.create(
            model="tiny", prompt="a", max_tokens=500, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        for _ in range(100):
            if "rattan_sequences_running 0\n" in self.server.get("/metrics"):
                return
            threading.Event().wait(0.02)
        self.fail("the sequence still runs")

    def test_a_conversation_is_kept_and_brought_back(self):
        self.assertEqual(self.server.post("/state/save", {"name": "one", "prompt": PROMPT}),
                         {"name": "one", "tokens": len(PROMPT)})
        self.assertEqual(self.server.post("/state/restore", {"name": "one"})["prompt"], PROMPT)

    def test_the_load_generator_reports_what_it_saw(self):
        report = self.program_without_threads(
            "bench", "serve", self.server.url, "--conversations", "6", "--concurrency", "3", "--turns", "2", "--shared",
            "16", "--prompt", "24", "--answer", "8", "--rate", "200")
        self.assertEqual((report["requests"], report["complete"], report["failures"]), (12, 12, {}))
        self.assertEqual(report["answer_tokens"], 12 * 8)
        self.assertEqual(report["token_seconds"]["count"], 12 * 7)
        self.assertGreater(report["reused_tokens"], 6 * 40, "second turns go on where the first ended")

    def test_wrong_use_is_explained(self):
        for arguments, words in (
                (["/nowhere"], "/nowhere"),
                ([str(self.server.model), "--memory", "much"], "--memory takes an amount"),
                ([str(self.server.model), "--port", self.server.url.rsplit(":", 1)[1]], "another server"),
                ([str(self.server.model), "--host", "nowhere"], "--host takes an address")):
            port = [] if "--port" in arguments else ["--port", "0"]
            done = subprocess.run(
                [self.server.program, "serve", *arguments, *port], capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn(words, done.stderr)

    def resident(self):
        status = pathlib.Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def hostile(self, i):
        """One of many ways to be a bad client; number 0 is a good one, whose answer is returned."""
        if i % 6 == 0:
            return self.client.completions.create(model="tiny", prompt=PROMPT, max_tokens=24, seed=3).choices[0].text
        body = json.dumps({"prompt": "a" * (5 + i % 7), "max_tokens": 100, "stream": True, "ignore_eos": True}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        host, port = self.server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as s:
            if i % 6 == 1:  # leaves in the middle of the answer
                s.sendall(whole)
                s.recv(300 + i % 900)
            elif i % 6 == 2:  # leaves in the middle of the question
                s.sendall(whole[: 60 + i % (len(whole) - 60)])
            elif i % 6 == 3:  # never reads
                s.sendall(whole * 3)
                threading.Event().wait(0.05)
            elif i % 6 == 4:  # sends what is none
                s.sendall(head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\xff{]")
                self.assertTrue(s.recv(100).startswith(b"HTTP/1.1 400"))
            else:  # a prompt that is too long
                long = json.dumps({"prompt": "a" * 5000}).encode()
                s.sendall(head + b"Content-Length: %d\r\n\r\n" % len(long) + long)
                self.assertTrue(s.recv(100).startswith(b"HTTP/1.1 400"))
        return None

    def test_bad_clients_do_not_disturb_good_ones(self):
        want = self.hostile(0)

        def round_of(count):
            with concurrent.futures.ThreadPoolExecutor(12) as pool:
                answers = [answer for answer in pool.map(self.hostile, range(count)) if answer is not None]
            self.assertEqual(answers, [want] * len(answers))

        round_of(48)
        before = self.resident()
        round_of(96)
        # A connection or request that leaked would keep 100 KB at least; caches of the allocator may still grow.
        self.assertLess(self.resident() - before, 24)
        for _ in range(200):
            metrics = self.server.get("/metrics")
            if "rattan_sequences_running 0\n" in metrics and "rattan_requests_waiting 0\n" in metrics:
                return
            threading.Event().wait(0.02)
        self.fail("some sequences still run")

    def test_models_and_tokens(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["tiny"])
        self.assertEqual(self.server.post("/tokenize", {"prompt": "ab"})["tokens"], [97, 98])
        self.assertEqual(self.server.post("/detokenize", {"tokens": [97, 98]})["prompt"], "ab")


class KeysAndStop(unittest.TestCase):
    def test_keys_and_sigterm(self):
        with tempfile.TemporaryDirectory() as folder:
            keys = pathlib.Path(folder) / "keys"
            keys.write_text(KEY + "\n")
            with Server("--keys", str(keys)) as server:
                with self.assertRaises(openai.AuthenticationError):
                    openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0).models.list()
                client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
                stream = client.completions.create(
                    model="tiny", prompt="a", max_tokens=200, stream=True, extra_body={"ignore_eos": True})
                pieces = iter(stream)
                next(pieces)
                codes = []
                thread = threading.Thread(target=lambda: codes.append(server.stop()))
                thread.start()
                finish = [event.choices[0].finish_reason for event in pieces][-1]
                thread.join()
                self.assertEqual(finish, "length", "an answer under way is finished")
                self.assertEqual(codes, [0])
                self.assertEqual(server.log[-1]["event"], "stopped")
                self.assertFalse(math.isnan(server.log[-1]["requests"]))


if __name__ == "__main__":
    unittest.main()
