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


class LmEval(unittest.TestCase):
    def test_scores_and_generations_are_the_program_s_own(self):
        with tempfile.TemporaryDirectory() as folder, Server() as server:
            root = pathlib.Path(folder)
            (root / "data.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
            for name, text in (("choice", CHOICE), ("generate", GENERATE)):
                (root / f"{name}.yaml").write_text(text.format(file=root / "data.jsonl"))
            results = lm_eval.simple_evaluate(
                model="local-completions",
                model_args=f"model=tiny,base_url={server.url}/v1/completions,tokenizer_backend=remote,"
                           "tokenized_requests=True,num_concurrent=2,max_length=512",
                tasks=["rattan_choice", "rattan_generate"],
                task_manager=lm_eval.tasks.TaskManager(include_path=str(root), include_defaults=False),
                log_samples=True, bootstrap_iters=0)
            samples = results["samples"]

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


if __name__ == "__main__":
    unittest.main()
