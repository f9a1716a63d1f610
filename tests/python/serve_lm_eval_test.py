"""lm-eval (EleutherAI's harness) measures a running server through its remote tokenizer: the log-likelihoods of a small
multiple-choice task are those of `rattan score`, and its generations those of `rattan generate`.

Skipped where lm-eval is not installed: it brings a hundred packages. To run it:
    .venv/bin/pip install 'lm_eval[api]' && ./dev test lm_eval
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

try:
    import lm_eval
except ImportError:
    print(__doc__)
    sys.exit(77)

os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import unittest  # noqa: E402

from served_model import Server  # noqa: E402

# Zero-shot sets as JSON lines with query, choices and gold: beside the project, or where RATTAN_EVAL_DATA says.
SETS = pathlib.Path(os.environ.get("RATTAN_EVAL_DATA", pathlib.Path(__file__).resolve().parents[3] / "shared/data/eval"))
SET = """
task: rattan_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{query}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
target_delimiter: " "
metric_list: [{{metric: acc}}]
"""
QUESTIONS = [
    {"question": "In the beginning was the", "choices": [" word", " number"], "answer": 0},
    {"question": "A stitch in time saves", "choices": [" ten", " nine", " a shirt"], "answer": 1},
    {"question": "Still waters run", "choices": [" deep", " quickly"], "answer": 0},
]
CHOICE = """
task: rattan_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
GENERATE = """
task: rattan_generate
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "x"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 12, temperature: 0}}
metric_list: [{{metric: exact_match}}]
"""


def evaluate(server, folder, tasks):
    return lm_eval.simple_evaluate(
        model="local-completions",
        model_args=f"model=tiny,base_url={server.url}/v1/completions,tokenizer_backend=remote,"
                   "tokenized_requests=True,num_concurrent=2,max_length=512",
        tasks=tasks, task_manager=lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True, bootstrap_iters=0)


class LmEval(unittest.TestCase):
    def test_scores_and_generations_are_the_program_s_own(self):
        with tempfile.TemporaryDirectory() as folder, Server() as server:
            root = pathlib.Path(folder)
            (root / "data.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
            for name, text in (("choice", CHOICE), ("generate", GENERATE)):
                (root / f"{name}.yaml").write_text(text.format(file=root / "data.jsonl"))
            samples = evaluate(server, root, ["rattan_choice", "rattan_generate"])["samples"]

            def program(*arguments):
                out = subprocess.run([server.program, *arguments, "--threads", "1", "--json"],
                                     check=True, capture_output=True, text=True)
                return json.loads(out.stdout)

            self.assertEqual(len(samples["rattan_choice"]), len(QUESTIONS))
            for sample in samples["rattan_choice"]:
                for choice, (told, _) in zip(sample["doc"]["choices"], sample["filtered_resps"], strict=True):
                    scored = program("score", str(server.model), "--text", sample["doc"]["question"] + choice)
                    # Sums over at most 9 tokens of numbers of about 10 in fp32.
                    self.assertAlmostEqual(float(told), sum(scored["logprobs"][-len(choice):]), delta=2e-3)
            for sample in samples["rattan_generate"]:
                made = program("generate", str(server.model), "--prompt", sample["doc"]["question"],
                               "--max-tokens", "12", "--greedy", "--stop", "\\n")
                self.assertEqual(sample["resps"][0][0], made["samples"][0]["text"])

    @unittest.skipUnless(SETS.is_dir(), "the sets are not at hand")
    def test_the_sets_at_hand(self):
        with tempfile.TemporaryDirectory() as folder, Server() as server:
            root, names = pathlib.Path(folder), ("piqa", "copa", "arc_easy", "openbook_qa")
            for name in names:
                # Those that the small context has room for; a whole set takes minutes.
                rows = [json.loads(line) for line in (SETS / f"{name}.jsonl").read_text().splitlines()]
                rows = [r for r in rows if len(r["query"]) + max(map(len, r["choices"])) < 250][:6]
                (root / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
                (root / f"{name}.yaml").write_text(SET.format(name=name, file=root / f"{name}.jsonl"))
            results = evaluate(server, root, [f"rattan_{name}" for name in names])
            for name in names:
                samples = results["samples"][f"rattan_{name}"]
                self.assertEqual(len(samples), 6)
                right = 0
                for sample in samples:
                    told = [float(x[0]) for x in sample["filtered_resps"]]
                    right += told.index(max(told)) == sample["doc"]["gold"]
                    query = sample["doc"]["query"]
                    # lm-eval counts blanks at the query's end as the answer's.
                    choice = query[len(query.rstrip()):] + " " + sample["doc"]["choices"][0]
                    out = subprocess.run([server.program, "score", str(server.model), "--text",
                                          query.rstrip() + choice, "--threads", "1", "--json"],
                                         check=True, capture_output=True, text=True)
                    scored = sum(json.loads(out.stdout)["logprobs"][-len(choice.encode()):])
                    # Sums over up to 250 tokens of numbers of about 10 in fp32.
                    self.assertAlmostEqual(told[0], scored, delta=1e-5 * abs(scored) + 2e-3)
                self.assertAlmostEqual(results["results"][f"rattan_{name}"]["acc,none"], right / 6)


if __name__ == "__main__":
    unittest.main()
