// One layer of one mixer in one mode, as it stands in a stack of such layers.
#pragma once
#include <memory>
#include <vector>

#include "rattan/bench/layer.h"
#include "rattan/bench/subject.h"
#include "rattan/bench/torch_attention.h"
#include "rattan/nn/block.h"

namespace rattan::bench {

// Documents that fill one row of `seq` tokens, the given lengths over and over; the last is cut. One if none is given.
std::vector<int64_t> documents_of(const LayerBench& config, int64_t seq);

// Adds the mixer of that name, with its norm, to an empty block and fills the parameters.
void build_layer(nn::Block& block, const LayerBench& config, const std::string& mixer, uint64_t seed);

// What a layer of this mixer keeps of a sequence.
nn::StateSpec spec_of(const nn::Block& block, const LayerBench& config, const std::string& name);

// A call begins with the stream as the layer before leaves it and ends with it as the next one takes it. So the norm
// adds the branch before, or that branch has added itself; the own branch stays pending or adds itself; backward
// starts from the gradients of both and ends with theirs. Inputs and states are made before a call and freed by whom
// they are used last, so that the memory at the peak is the layer's own.
class LayerCase : public Subject {
 public:
  LayerCase(const LayerBench& config, const std::string& mixer, int64_t seq, int64_t batch, const std::string& mode);
  void prepare() override;
  void run() override;
  double flops() const override;
  double bytes() const override;

 private:
  struct Before;
  struct After;
  bool training() const { return mode_ == "train"; }
  bool decoding() const { return mode_ == "decode"; }
  at::Tensor rows(at::ScalarType dtype) const;  // [batch, tokens, d_model], a block of random rows repeated
  std::vector<nn::Segment> segments() const;
  nn::State empty_state() const;
  void train(nn::Call& call);
  void extend(nn::Call& call);

  const LayerBench& config_;
  at::ScalarType compute_;
  std::string mode_;
  int64_t seq_, batch_, tokens_, parameters_ = 0;  // tokens of a row in a call
  int64_t weight_bytes_ = 0;                       // a parameter, as products read it
  std::vector<int64_t> documents_;                 // of a row
  nn::Block block_;
  nn::StateSpec spec_;
  TorchAttention torch_core_;
  nn::AttentionCore* core_ = nullptr;
  at::Tensor block_of_rows_, anchor_;
  at::Tensor x_, branch_, d_sum_, d_branch_;  // of the next call
  bool adds_itself_ = true;                   // the layer before; known after the first call
  std::vector<nn::State> states_;
  size_t next_state_ = 0;
};

}  // namespace rattan::bench
