// One mixing layer (norm, projections, mixing, gate, residual) timed in training, prefill and decoding: the
// single-layer protocol of RAT (arXiv 2507.04416, section 4), with every mixer in the same layer and run.
//   train:   forward and backward, gradients of weights and of the layer's inputs included
//   prefill: a whole sequence into an empty state
//   decode:  one token at the last position, on a state of T-1 tokens (random values, so nothing is skipped). On a GPU
//            as models do it: places on the device, many layers in a recorded graph, timed together (layer_steps.h);
//            around torch's attention, call by call from the host
// The layer runs as in a stack (layer_case.h): the addition of a branch to the residual stream is part of the norm
// that follows it or of the projection before it. Before each call the caches of a GPU are filled with other data.
#pragma once
#include <ATen/core/Tensor.h>

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "rattan/bench/interleave.h"
#include "rattan/ops/fp8.h"

namespace rattan::bench {

struct LayerBench {
  int64_t d_model = 512, heads = 8, groups = 2, window = 1024;
  std::vector<std::string> mixers = {"rat:16", "attention"};  // see mixer_options
  std::vector<int64_t> seq = {2048};
  int64_t batch = 1;
  int64_t tokens = 0;              // a call; 0: batch rows, else batch = tokens / seq
  std::vector<int64_t> documents;  // lengths that fill each row, over and over; none: one document a row
  std::vector<std::string> modes = {"train", "prefill", "decode"};
  std::string against;  // the mixer that speed is a multiple of; empty: see comparison_of
  std::string note;     // goes into the report
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;
  bool cache_in_8_bits = false;  // keys and values of states, but around torch's attention
  Budget budget;
};

struct LayerRow {
  std::string mixer, mode;
  int64_t seq = 0, batch = 0;
  Timing time;
  double flops = 0, bytes = 0;        // of one call: arithmetic of the algorithm; weights and state that must be read
  std::optional<int64_t> peak_bytes;  // device memory of the subject at its peak: weights, inputs, activations
  std::optional<double> clock_mhz;    // of the multiprocessors while it ran, median
  int64_t repeats = 1;                // layers gone through in a timed call; the time is that of one
};

struct Ceilings {
  double flops = 0;  // FLOP/s of the layer's input projection as one matrix product
  double bytes = 0;  // bytes/s of a large copy, read and written
};

struct LayerReport {
  LayerBench config;
  std::string device_name;  // of a GPU
  Ceilings ceilings;
  std::vector<LayerRow> rows;
};

// A mixer of a benchmark: a registered type with its usual options, "rat:L" for a chunk length, "swa:W" for a
// window; "attention:torch" is the same layer around torch's own attention kernel, the comparison. Beside these a
// benchmark takes "products", the matrix products of rat alone (products.h). Each may end with "+fp8": its projections
// multiply in fp8, the dtype being bf16 ("+fp8_emulated": so rounded, on any device).
// Returns the TOML of its [mixers.<name>] table. InputError for what is not one.
std::string mixer_options(const std::string& name, const LayerBench& config);

// A name without its "+fp8", and what that says.
std::pair<std::string, ops::Fp8> split_fp8(const std::string& name);
// The mixers, each followed by itself in fp8.
std::vector<std::string> beside_fp8(const std::vector<std::string>& mixers);

// What speed is measured against: attention around torch's kernel if it runs, else attention, else the last mixer.
std::string comparison_of(const LayerBench& config);

LayerReport run_layer_bench(const LayerBench& config);

std::string to_table(const LayerReport& report);
nlohmann::json to_json(const LayerReport& report);
std::string to_plot(const LayerReport& report, const std::string& mode);  // SVG: time against T

}  // namespace rattan::bench
