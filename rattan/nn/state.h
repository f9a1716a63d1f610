// What a model remembers of a sequence: a tree of named tensors whose rows are sequences.
//
// A mixer says what it needs (StateSpec); storage is made by whoever runs the model, so one description serves
// training with carried state, generation and a server's memory plan. A field holds, per sequence,
//   every = 0: one entry of `shape` (a running state);
//   every = n: one entry per n tokens (key/value caches, chunk ends): storage [rows, capacity / n, shape...];
//   cap > 0:   a ring of `cap` entries, the entry of position t at slot t mod cap: storage [rows, cap, shape...].
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace rattan::nn {

struct Field {
  std::string name;
  at::ScalarType dtype = at::ScalarType::Undefined;  // Undefined: the computing type; fp32 is
                                                     // float64 where float64 is computed in
  std::vector<int64_t> shape;
  int64_t every = 0, cap = 0;
  bool host_ok = false;  // may live in host memory while unused
  bool rounds = false;   // vectors that may be held in 8 bits: StateSpec::in_8_bits()
};

// What the exponents of a field in 8 bits are called: the field's name and this.
inline constexpr const char* kExponents = "_exponents";

struct StateSpec {
  std::vector<Field> fields;
  std::map<std::string, StateSpec> child;
  int64_t resume = 1;         // the state of a prefix is contained in a longer one's at multiples of this; 0: never
  bool prefix_whole = false;  // the first extend must hold the whole prefix

  bool empty() const;
  bool needs_whole_prefix() const;                              // prefix_whole, anywhere in the tree
  int64_t entries(const Field& field, int64_t tokens) const;    // entries a sequence of `tokens` needs
  int64_t bytes(int64_t tokens, at::ScalarType compute) const;  // of one sequence of `tokens`
  // The same with fields that may be rounded in 8 bits (kernels/mxint8.h): int8 codes under the field's name, and
  // beside them uint8 exponents, one for 32 channels. A mixer sees by its state's fields how they are held.
  StateSpec in_8_bits() const;
};

struct State {
  std::map<std::string, at::Tensor> t;
  std::map<std::string, State> child;
  at::Tensor length;  // int64 [rows], host: tokens each sequence holds; kept at the root of the tree

  State detach() const;
  State rows(const at::Tensor& index) const;  // gathers sequences (beam search, forks); int64 [n]
  // Cuts sequence `row` to its first n tokens. InputError unless `spec` allows to resume there.
  void truncate(const StateSpec& spec, int64_t row, int64_t n);
  int64_t bytes() const;
};

// Zeroed storage for `rows` sequences of up to `capacity` tokens, computed in `compute`.
State make_state(const StateSpec& spec, int64_t rows, int64_t capacity, at::ScalarType compute,
                 at::Device device = at::kCPU);

}  // namespace rattan::nn
