// Whole models, timed in decoding, prefill and training. They take turns, so that they are compared in one run; weights
// are random, which changes no time.
//   decode:  one token after another at the positions [from, from + count) of `batch` sequences, the most probable one
//            fed back on the device (RAT, arXiv 2507.04416, section 4: positions 3,072 to 4,095); batch 0: as many
//            sequences as give the most tokens a second in the device's memory
//   prefill: `rows` sequences of T tokens into empty states, and the logits behind each
//   train:   optimizer steps of `accumulation` micro-batches of `rows` sequences of T tokens, the input's way to the
//            device and the loss's way back included; beside each model its matrix products alone
// A model holds memory only in its turn: it is built before the clock starts and gone before the next one's.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "rattan/bench/interleave.h"
#include "rattan/bench/layer.h"
#include "rattan/models/language_model.h"
#include "rattan/ops/fp8.h"

namespace rattan::bench {

struct NamedModel {
  std::string name;
  models::LanguageModelConfig config;
};

struct ModelBench {
  std::vector<NamedModel> models;
  std::vector<std::string> modes = {"decode", "prefill", "train"};
  std::vector<int64_t> batch = {1};                 // decode; 0: the best
  int64_t from = 3072, count = 1024, stride = 1;    // decode: every stride-th position of the range
  std::string fill = "random";                      // decode: what the states hold, "random" or "computed" (fill.h)
  bool graph = true;                                // decode: record the step on a GPU
  std::vector<int64_t> seq = {4096};                // prefill and train: T
  int64_t rows = 1, accumulation = 1, updates = 1;  // train: micro-batch, micro-batches a step, steps a call
  bool checkpointing = false;
  std::optional<double> peak_flops;  // what the device could do by its data sheet; default: known for an H100 and H200
  std::string note;
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;
  ops::Fp8 fp8 = ops::Fp8::off;  // of the projections, beside bf16; products alone stay in bf16
  bool cache_in_8_bits = false;  // keys and values of states
  Budget budget;
};

// What a model keeps of a sequence.
nn::StateSpec spec_of(const ModelBench& config, const models::LanguageModelConfig& model);

struct ModelRow {
  std::string model, mode;        // "products" as mode: the matrix products of training alone
  int64_t batch = 0, tokens = 0;  // sequences; T, or the first position decoded
  Timing time;                    // of a call
  double tokens_a_call = 0, steps_a_call = 1;
  double flops = 0, bytes = 0;  // of a call: arithmetic without recomputation; weights and state that must be read
  std::optional<int64_t> peak_bytes = {};  // device memory at its peak, of this subject
  std::optional<double> clock_mhz = {};
  int64_t largest = 0;                                 // decode, best batch: the most sequences that fit
  std::vector<std::pair<int64_t, double>> tried = {};  // and the tokens a second of other sizes, timed shortly
  double tokens_per_second() const { return tokens_a_call / time.median; }
};

struct ModelReport {
  ModelBench config;
  std::string device_name;
  double peak_flops = 0;  // 0: unknown
  Ceilings ceilings;
  std::vector<ModelRow> rows;
};

// InputError for what cannot be asked, among it the best batch on a CPU, whose memory has no edge to feel for.
ModelReport run_model_bench(const ModelBench& config);

std::string to_table(const ModelReport& report);
nlohmann::json to_json(const ModelReport& report);

}  // namespace rattan::bench
