"""`rattan chat`: conversations over a pipe and, with keys, at a terminal."""

import functools
import os
import pathlib
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import termios
import time
import unittest

from served_model import CONFIG

PROGRAM = os.environ["RATTAN_PROGRAM"]
WAIT = 60  # seconds for what takes less than one


class Stats:
    def __init__(self, line):
        found = re.fullmatch(r"\[(\d+) tokens( \(stopped\))?, .*; reused (\d+) of (\d+) tokens; state .*\]", line)
        self.made, self.reused, self.prompt = int(found[1]), int(found[3]), int(found[4])
        self.stopped = found[2] is not None


class Said:
    def __init__(self, run):
        self.code, self.out, self.err = run.returncode, run.stdout, run.stderr.decode()
        self.notes = self.err.splitlines()
        self.stats = [Stats(line) for line in self.notes if line.startswith("[")]


def run(*arguments, text=b""):
    return subprocess.run([PROGRAM, *map(str, arguments)], input=text, capture_output=True, timeout=WAIT)


class Chat(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.temporary.name)
        cls.model = cls.make_model("model")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    @classmethod
    def make_model(cls, name, seed=1, config=CONFIG):
        (cls.root / f"{name}.toml").write_text(config)
        made = run("init", cls.root / f"{name}.toml", "--out", cls.root / name, "--tokenizer", "bytes", "--seed", seed)
        assert made.returncode == 0, made.stderr
        return cls.root / name

    @classmethod
    def chat(cls, *lines, flags=("--greedy",), model=None):
        text = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
        return Said(run("chat", model or cls.model, "--threads", 1, "--max-tokens", 12, "--stats", *flags, text=text))

    @classmethod
    @functools.cache
    def answered(cls, lines, flags):
        said = cls.chat(*lines, flags=flags)
        assert said.code == 0, said.err
        return said.out

    def answers(self, *lines, flags=("--greedy",)):
        """The answer to each message, by asking for one more at a time: bytes may hold line ends of their own."""
        out, whole = [], b""
        for n in range(1, len(lines) + 1):
            said = self.answered(lines[:n], flags)
            self.assertTrue(said.startswith(whole), "the same beginning gives the same answers")
            out.append(said[len(whole):])
            whole = said
        return out

    def test_a_pipe_gets_the_answer_and_nothing_else(self):
        said = self.chat("hi")
        made = run("generate", self.model, "--prompt", "User:\nhi\n\nAssistant:\n", "--greedy", "--threads", 1,
                   "--max-tokens", 12, "--stop", "\n\nUser:")
        self.assertEqual((said.code, said.out), (0, made.stdout))
        self.assertEqual(said.stats[0].prompt, len("User:\nhi\n\nAssistant:\n"))

    def test_the_last_line_needs_no_end_and_empty_ones_are_nothing(self):
        said = run("chat", self.model, "--greedy", "--threads", 1, "--max-tokens", 12, text=b"\n  \nhi")
        self.assertEqual(said.stdout, self.chat("hi").out)
        self.assertEqual(said.stderr, b"", "without --stats a pipe hears nothing on stderr")

    def test_a_line_that_ends_with_a_backslash_goes_on(self):
        said = self.chat("one\\", "two")
        self.assertEqual(len(said.stats), 1)
        self.assertEqual(said.stats[0].prompt, len("User:\none\ntwo\n\nAssistant:\n"))

    def test_each_turn_reads_its_new_tokens_alone(self):
        said = self.chat("hello " * 20, "go on", "and on")
        for before, turn in zip(said.stats, said.stats[1:]):
            # The answer's last token is read with the next turn.
            self.assertGreaterEqual(turn.reused, before.prompt + before.made - 1)
            self.assertLess(turn.prompt - turn.reused, 60)

    def test_undo_rolls_the_state_back_and_the_same_message_gets_the_same_answer(self):
        first, second = self.answers("hello", "go on")
        said = self.chat("hello", "go on", "/undo", "go on", "/undo", "/undo", "hello")
        self.assertEqual(said.out, first + second + second + first)
        # Prompts whose end was seen before: but for the last token, nothing is read again.
        self.assertEqual([turn.prompt - turn.reused for turn in said.stats[2:]], [1, 1])
        empty = self.chat("/undo", "hello")
        self.assertIn("nothing to take back", empty.err)
        self.assertEqual(empty.out, first)

    def test_a_saved_conversation_goes_on_in_another_process(self):
        # In strict mode bit for bit; drawn answers depend on the settings and the seed as well.
        flags = ("--temperature", "0.7", "--top-k", "50", "--seed", "5", "--strict", "--system", "Be brief.")
        path = self.root / "talk.safetensors"
        whole = self.chat("hello", "go on", "again", flags=flags)
        begun = self.chat("hello", "go on", f"/save {path}", flags=flags)
        gone_on = self.chat(f"/load {path}", "again", flags=("--strict",))
        self.assertEqual(begun.out + gone_on.out, whole.out)
        self.assertEqual(gone_on.stats[0].prompt, whole.stats[2].prompt)
        self.assertEqual(gone_on.stats[0].reused, whole.stats[2].reused, "the state came with the file")
        by_flag = self.chat("again", flags=("--strict", "--load", path))
        self.assertEqual(by_flag.out, gone_on.out)
        undone = self.chat("/undo", "go on", "again", flags=("--strict", "--load", path))
        self.assertEqual(undone.out, whole.out[len(self.chat("hello", flags=flags).out):])

    def test_flags_that_are_given_win_over_the_saved_sampling(self):
        path = self.root / "greedy.safetensors"
        self.chat("hello", f"/save {path}", flags=("--temperature", "0.9", "--seed", "3"))
        said = self.chat("/regenerate", flags=("--load", path, "--greedy"))
        self.assertIn("this program's sampling: temperature 0,", said.err)
        self.assertIn("its sampling: temperature 0.9", self.chat(f"/load {path}", flags=()).err)

    def test_save_again_needs_no_name_and_spares_other_files(self):
        path = self.root / "again.safetensors"
        said = self.chat("/save", "hello", "/save", f"/save {path}", "go on", "/save")
        self.assertEqual(said.err.count("needs the name"), 2, "nothing has a name yet")
        self.assertIn("nothing to save", self.chat(f"/save {path}").err)
        self.assertIn("2 exchanges", self.chat(f"/load {path}").err)
        weights = self.model / "model.safetensors"
        content = weights.read_bytes()
        said = self.chat("hello", f"/save {weights}")
        self.assertIn("not overwritten", said.err)
        self.assertEqual(weights.read_bytes(), content)

    def test_regenerate_draws_anew_and_greedy_has_nothing_to_draw(self):
        first, = self.answers("hello", flags=("--seed", "7"))
        following, = self.answers("hello", flags=("--seed", "8"))
        said = self.chat("hello", "/regenerate", flags=("--seed", "7"))
        self.assertEqual(said.out, first + following)
        self.assertNotEqual(first, following)
        self.assertIn("would be the same", self.chat("hello", "/regenerate").err)
        self.assertIn("no answer yet", self.chat("/regenerate", flags=()).err)

    def test_a_bad_load_leaves_the_conversation(self):
        other = self.make_model("other", seed=2)
        path, foreign, broken = self.root / "own", self.root / "foreign", self.root / "broken"
        self.chat("hello", f"/save {path}")
        self.chat("hello", f"/save {foreign}", model=other)
        broken.write_bytes(path.read_bytes()[:-9])
        reasons = [(self.root / "none", "none"), (foreign, "another model"), (broken, "broken"),
                   (self.model / "model.safetensors", "not a saved conversation"), (self.root, "")]
        first, second = self.answers("hello", "go on")
        said = self.chat("hello", *(f"/load {bad}" for bad, _ in reasons), "go on")
        self.assertEqual((said.code, said.out), (0, first + second))
        for bad, reason in reasons[:3]:
            at_start = self.chat("hello", flags=("--load", bad))
            self.assertEqual((at_start.code, at_start.out), (2, b""), at_start.err)
            self.assertIn(reason, at_start.err)

    def test_a_state_without_messages_is_no_conversation(self):
        sys.path.insert(0, str(pathlib.Path(__file__).parent))
        from served_model import Server
        with Server() as server:
            server.post("/state/save", {"name": "talk", "messages": [{"role": "user", "content": "hello"}]})
            said = self.chat("hello", flags=("--load", next((server.model.parent / "states").iterdir())),
                             model=server.model)
        self.assertEqual(said.code, 2)
        self.assertIn("without the messages", said.err)

    def test_wrong_input_is_exit_code_2_with_a_reason(self):
        bare = self.root / "bare"
        shutil.copytree(self.model, bare)
        (bare / "tokenizer.bytes").unlink()
        for arguments, reason in [((self.root / "none",), "none"), ((bare,), "tokenizer"), ((), "model"),
                                  ((self.model, "--temperature", "-1"), "temperature"),
                                  ((self.model, "--max-tokens", "0"), "at least 1"),
                                  ((self.model, "--stop", ""), "stop"),
                                  ((self.model, "--memory", "1"), "memory"),
                                  ((self.model, "--load", "x", "--system", "y"), "excludes")]:
            said = run("chat", *arguments, text=b"hi\n")
            self.assertEqual((said.returncode, said.stdout), (2, b""), arguments)
            self.assertIn(reason, said.stderr.decode(), arguments)

    def test_wrong_lines_are_said_and_the_talk_goes_on(self):
        answer, = self.answers("hello")
        said = self.chat("/udo", "/quit now", "/load", b"\xff\xfe", "hello", "x" * 600, "/undo", "hello")
        self.assertEqual((said.code, said.out), (0, answer + answer), said.err)
        for reason in ["did you mean /undo?", "/quit takes nothing", "/load needs", "not UTF-8 (byte 1)",
                       "there is room for 512"]:
            self.assertIn(reason, said.err)
        self.assertEqual(self.chat("/quit", "hello").out, b"")

    def test_a_message_may_begin_with_a_slash_behind_a_blank(self):
        self.assertEqual(self.chat(" /help").stats[0].prompt, len("User:\n /help\n\nAssistant:\n"))

    def test_the_help_names_every_command(self):
        shown = run("chat", "--help").stdout.decode()
        commands = re.findall(r"^/\w+", shown, re.M)
        self.assertIn("/undo", commands)
        said = self.chat("/help", *(command for command in commands if command != "/quit"))
        self.assertEqual(re.findall(r"^/\w+(?! needs)", said.err, re.M)[:len(commands)], commands)
        self.assertNotIn("there is no command", said.err)


class Terminal:
    """The program at a terminal; its answers go to a pipe, so that they come as they are."""

    def __init__(self, *arguments):
        out_read, out_write = os.pipe()
        self.pid, self.keys = pty.fork()
        if self.pid == 0:
            os.dup2(out_write, 1)
            os.environ.update(TERM="xterm", LC_ALL="C.UTF-8", HOME="/nonexistent")
            os.execv(PROGRAM, [PROGRAM, *map(str, arguments)])
        os.close(out_write)
        self.out_file = out_read
        self.out, self.shown = b"", b""

    def step(self):
        """Takes what has come; false if nothing did for a moment, or never will."""
        ready, _, _ = select.select([self.out_file, self.keys], [], [], 0.05)
        more = False
        for file in ready:
            try:
                data = os.read(file, 4096)
            except OSError:  # a terminal that nobody holds open any more
                data = b""
            if file == self.keys:
                self.shown += data
            else:
                self.out += data
            more = more or bool(data)
        return more

    def wait_for(self, condition):
        end = time.monotonic() + WAIT
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"waited in vain; shown: {self.shown!r}; answered: {self.out[-200:]!r}")
            self.step()

    def prompted(self, after=0):
        # The prompt is shown a moment before the editor gets the keys; until then the terminal has its own idea of them.
        self.wait_for(lambda: b"> " in self.shown[after:] and not termios.tcgetattr(self.keys)[3] & termios.ICANON)

    def type(self, keys, word):
        """Types, and waits until the program has said `word` and asks for the next line."""
        start = len(self.shown)
        os.write(self.keys, keys)
        self.wait_for(lambda: word in self.shown[start:])
        self.prompted(self.shown.index(word, start))
        while self.step():  # the answer comes by another way and may still be under way
            pass

    def end(self):
        os.write(self.keys, b"\x04")
        code = None
        deadline = time.monotonic() + WAIT
        while code is None and time.monotonic() < deadline:
            self.step()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if pid else None
        while self.step():
            pass
        os.close(self.keys)
        os.close(self.out_file)
        return code


class AtATerminal(Chat):
    # The tests above ran already.
    for name in [name for name in dir(Chat) if name.startswith("test_")]:
        locals()[name] = None

    def test_ctrl_c_stops_the_answer_and_not_the_program(self):
        terminal = Terminal("chat", self.model, "--greedy", "--threads", 1, "--max-tokens", 900_000, "--context", 1_000_000)
        terminal.prompted()
        os.write(terminal.keys, b"hi\r")
        terminal.wait_for(lambda: len(terminal.out) > 100)
        terminal.type(b"\x03", b"(stopped)")
        stopped = len(terminal.out)
        terminal.type(b"/undo\r", b"taken back")  # it listens
        self.assertEqual(len(terminal.out), stopped, "and says no more")
        terminal.type(b"a line that is given up\x03", b"Ctrl-D or /quit ends")
        self.assertEqual(terminal.end(), 0)

    def test_lines_are_edited(self):
        first, second = self.answers("größe", "go on")
        terminal = Terminal("chat", self.model, "--greedy", "--threads", 1, "--max-tokens", 12)
        terminal.prompted()
        left, up, erase = b"\x1b[D", b"\x1b[A", b"\x7f"
        # "größX": one key erases each character, two bytes or one; Ctrl-A, Ctrl-E, Ctrl-K go where they should.
        terminal.type("rößXée".encode() + left + b"\x0b" + erase * 2 + b"e" + b"\x01g\x05\r", b"tokens/s")
        terminal.type(b"go on\r", b"tokens/s")
        terminal.type(b"/undo\r", b"taken back")
        terminal.type(up * 2 + b"\r", b"tokens/s")
        self.assertEqual(terminal.end(), 0)
        self.assertEqual(terminal.out, first + second + second)


if __name__ == "__main__":
    unittest.main(verbosity=2)
