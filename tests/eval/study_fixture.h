// A study of two very small language models on a made-up text, run by the command line.
#pragma once
#include "tests/cli/cli_fixture.h"
#include "tests/train/tiny_run.h"

namespace rattan::study {

class StudyTest : public cli::CliTest {
 protected:
  StudyTest() {
    std::filesystem::create_directories(folder / "text");
    for (int i = 0; i < 3; ++i) write_file(folder / "text" / fmt::format("{}.txt", i), tiny_run::text(60 + 10 * i));
  }

  std::string study_file(const std::string& more = "") const {
    return file("tiny.toml", fmt::format(R"([study]
title = "Two mixers"
seeds = [1, 2]
metrics = ["loss", "bits_per_byte", "loss@64", "non_embedding_parameters", "state_bytes", "state_bytes@64"]
reference = "attention"
equal_parameters = 0.05
[text]
train = "{}"
[model]
vocab_size = 280
d_model = 32
n_layers = 2
pattern = ["attention"]
init_std = 0.1
ffn = {{ type = "gelu", hidden = 64 }}
[mixers.attention]
type = "attention"
n_heads = 2
[mixers.rat]
type = "rat"
n_heads = 2
n_groups = 2
chunk = 4
[data]
seq_len = 16
batch = 4
[train]
steps = 12
lr = 0.01
warmup = 2
precision = "fp32"
eval_every = 4
[run]
checkpoint_every = 3
threads = 1
peak_tflops = 1.0
[tune]
lr = [0.003, 0.01]
steps = 4
[evaluate]
position_factor = 4
position_tokens = 300
[[arms]]
name = "attention"
[[arms]]
name = "rat"
label = "RAT-4"
set = ["model.pattern=rat", "model.ffn.hidden=32"]
[[plots]]
name = "steps"
x = "step"
y = "loss"
[[plots]]
name = "positions"
x = "position"
y = "loss"
x_scale = "log2"
[[plots]]
name = "state"
x = "state_bytes"
y = "loss"
)",
                                         path("text")) +
                                 more);
  }

  cli::Outcome study(const std::string& out, std::vector<std::string> more = {}) const {
    std::vector<std::string> words = {"study", study_file(), "--out", path(out), "--quiet"};
    words.insert(words.end(), more.begin(), more.end());
    return rattan(words);
  }

  // The reports of a study's folder, as one text.
  std::string reports(const std::string& out) const {
    std::string all;
    for (const char* name : {"study.md", "study.json", "steps.svg", "positions.svg", "state.svg"})
      all += read_file(folder / out / name);
    return all;
  }
};

}  // namespace rattan::study
