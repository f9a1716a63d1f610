#include "rattan/nn/state.h"

#include <ATen/ops/zeros.h>

#include <algorithm>

#include "rattan/base/error.h"
#include "rattan/base/parallel.h"
#include "rattan/kernels/mxint8.h"

namespace rattan::nn {
namespace state_file {

int64_t elements(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (int64_t size : shape) n *= size;
  return n;
}

at::ScalarType dtype_of(const Field& field, at::ScalarType compute) {
  const bool widened = field.dtype == at::kFloat && compute == at::kDouble;
  return field.dtype == at::ScalarType::Undefined || widened ? compute : field.dtype;
}

State make_tree(const StateSpec& spec, int64_t rows, int64_t capacity, at::ScalarType compute, at::Device device) {
  State state;
  for (const Field& field : spec.fields) {
    std::vector<int64_t> shape = {rows};
    if (field.every > 0 || field.cap > 0) shape.push_back(spec.entries(field, capacity));
    shape.insert(shape.end(), field.shape.begin(), field.shape.end());
    state.t[field.name] = at::zeros(shape, at::TensorOptions().dtype(dtype_of(field, compute)).device(device));
  }
  for (const auto& [name, child] : spec.child) state.child[name] = make_tree(child, rows, capacity, compute, device);
  return state;
}

bool resumable(const StateSpec& spec, int64_t n) {
  if (!spec.fields.empty() && (spec.resume == 0 || n % spec.resume != 0)) return false;
  for (const auto& [name, child] : spec.child)
    if (!resumable(child, n)) return false;
  return true;
}

}  // namespace state_file

bool StateSpec::empty() const {
  if (!fields.empty()) return false;
  for (const auto& [name, spec] : child)
    if (!spec.empty()) return false;
  return true;
}

bool StateSpec::needs_whole_prefix() const {
  return prefix_whole ||
         std::any_of(child.begin(), child.end(), [](const auto& entry) { return entry.second.needs_whole_prefix(); });
}

StateSpec StateSpec::in_8_bits() const {
  StateSpec out = *this;
  out.fields.clear();
  for (const Field& field : fields) {
    out.fields.push_back(field);
    if (!field.rounds) continue;
    out.fields.back().dtype = at::kChar;
    Field exponents = field;
    exponents.name += kExponents, exponents.dtype = at::kByte;
    exponents.shape.back() = kernels::mxint8_blocks(field.shape.back());
    out.fields.push_back(std::move(exponents));
  }
  for (auto& [name, spec] : out.child) spec = spec.in_8_bits();
  return out;
}

int64_t StateSpec::entries(const Field& field, int64_t tokens) const {
  if (field.cap > 0) return field.cap;
  return field.every > 0 ? ceil_div(tokens, field.every) : 1;
}

int64_t StateSpec::bytes(int64_t tokens, at::ScalarType compute) const {
  int64_t total = 0;
  for (const Field& field : fields)
    total += entries(field, tokens) * state_file::elements(field.shape) *
             static_cast<int64_t>(c10::elementSize(state_file::dtype_of(field, compute)));
  for (const auto& [name, spec] : child) total += spec.bytes(tokens, compute);
  return total;
}

State State::detach() const {
  State out;
  for (const auto& [name, tensor] : t) out.t[name] = tensor.detach();
  for (const auto& [name, state] : child) out.child[name] = state.detach();
  out.length = length;
  return out;
}

State State::rows(const at::Tensor& index) const {
  State out;
  for (const auto& [name, tensor] : t) out.t[name] = tensor.index_select(0, index.to(tensor.device()));
  for (const auto& [name, state] : child) out.child[name] = state.rows(index);
  if (length.defined()) out.length = length.index_select(0, index.to(length.device()));
  return out;
}

void State::truncate(const StateSpec& spec, int64_t row, int64_t n) {
  const int64_t held = length[row].item<int64_t>();
  require(n >= 0 && n <= held, "cannot cut a sequence of {} tokens to {}", held, n);
  require(n == held || n == 0 || state_file::resumable(spec, n),
          "the state cannot be cut to {} tokens: it resumes at multiples of {} only", n, spec.resume);
  length[row].fill_(n);
}

int64_t State::bytes() const {
  int64_t total = 0;
  for (const auto& [name, tensor] : t) total += static_cast<int64_t>(tensor.nbytes());
  for (const auto& [name, state] : child) total += state.bytes();
  return total;
}

State make_state(const StateSpec& spec, int64_t rows, int64_t capacity, at::ScalarType compute, at::Device device) {
  State state = state_file::make_tree(spec, rows, capacity, compute, device);
  state.length = at::zeros({rows}, at::kLong);
  return state;
}

}  // namespace rattan::nn
