// What the rows of a batch hold. Packed documents, padding, prefixes and ragged serving batches are all
// segments of rows; tokens in no segment are padding: their output is 0 and they receive gradient 0.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace rattan::nn {

struct Segment {
  int32_t row = 0, begin = 0, end = 0;  // tokens [begin, end) of row `row`
  int32_t pos0 = 0;                     // position of the first token: what its state already holds
  int32_t prefix = 0;                   // leading tokens that see each other whole
  int32_t doc = 0;                      // document id, equal ids may meet through a carried state
  int32_t from = -1, to = -1;           // state row read and written, -1: none
  int32_t length() const { return end - begin; }
};

// One further token of each of n sequences whose places the device knows and the host need not: they can be advanced
// there, so that a decoding step asks nothing of the host and can be recorded once and replayed.
struct Steps {
  at::Tensor rows, positions;  // int32 [n]: the state row of each token, no two alike, and the token's position
  int64_t state_rows = 0;      // rows are below this
  int64_t limit = 0;           // positions are below this
};

enum class Visible : int8_t { causal, full };

// A two-dimensional reading of the tokens of each row (vision).
struct Grid {
  int64_t height = 0, width = 0;
};

// Which keys each query sees, derived once per batch: key rows [begin, end) of the flattened tokens.
struct MaskSpec {
  Visible visible = Visible::causal;
  int64_t left = -1, right = -1;  // window to either side, -1: unlimited
  at::Tensor begin, end;          // int32 [B*T]
};

class Layout {
 public:
  // Plain [B, T]: every row is one sequence from position 0. `states`: row b reads and writes state row b.
  static Layout uniform(int64_t rows, int64_t tokens, at::Device device = at::kCPU, bool states = false);
  // Tokens [1, n]. There are no segments: only what is derived below is known, and mixers whose traits say that they
  // take steps are given such a layout. Error for tensors that are not as Steps says.
  static Layout step(Steps steps);
  // Segments must be disjoint and ascending by (row, begin); InputError names the first that is not.
  Layout(int64_t rows, int64_t tokens, std::vector<Segment> segments, at::Device device = at::kCPU);

  int64_t rows() const { return rows_; }
  int64_t tokens() const { return tokens_; }        // of a row
  int64_t size() const { return rows_ * tokens_; }  // of the batch
  const std::vector<Segment>& segments() const;     // Error for a layout of steps
  const std::optional<Steps>& steps() const { return steps_; }
  at::Device device() const { return device_; }
  bool is_uniform() const { return uniform_; }  // one segment a row, from 0 to T, position 0
  bool has_padding() const { return covered_ < size(); }
  int64_t state_rows() const;  // 1 + the largest `from` or `to`
  int64_t first_token(const Segment& s) const { return s.row * tokens_ + s.begin; }

  Visible visible = Visible::causal;
  at::Tensor marks;  // optional, one class a token (landmarks, boundaries)
  std::optional<Grid> grid;

  // Derived on first use and kept, for copies of the layout too; on the layout's device.
  const MaskSpec& mask(int64_t left = -1, int64_t right = -1) const;
  const at::Tensor& positions() const;   // int32 [B*T], 0 on padding
  const at::Tensor& valid() const;       // bool [B*T]
  const at::Tensor& scan_table() const;  // int32 [segments, 4]: kernels::ScanSegment
  int64_t last_position() const;         // largest position of a token; of steps: that a token may have

  // A table made by `make` on the host, kept under `key` (derivations that belong to one mixer).
  const at::Tensor& table(const std::string& key, const std::function<at::Tensor()>& make) const;

 private:
  int64_t rows_, tokens_, covered_ = 0;
  std::vector<Segment> segments_;
  at::Device device_;
  std::optional<Steps> steps_;
  bool uniform_ = false;
  struct Derived {
    std::map<std::tuple<Visible, int64_t, int64_t>, MaskSpec> masks;
    std::map<std::string, at::Tensor> tables;
  };
  std::shared_ptr<Derived> derived_ = std::make_shared<Derived>();
};

// int32 values as a tensor [rows, columns] on `device`.
at::Tensor int_table(const std::vector<int32_t>& values, int64_t columns, at::Device device);

}  // namespace rattan::nn
