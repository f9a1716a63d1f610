// Decoding steps of a mixing layer on a GPU as a model takes them: many layers one after another, each with weights and
// a state of its own, in one recorded graph.
#pragma once
#include <memory>
#include <vector>

#include "rattan/bench/layer.h"
#include "rattan/bench/subject.h"
#include "rattan/infer/step_graph.h"
#include "rattan/nn/block.h"

namespace rattan::bench {

// A run replays the graph until 24 layers or more were gone through; as many differ as together exceed a processor's
// caches many times over, so that what a layer reads is in no cache when its turn comes. The places of the sequences
// lie on the device, and what is derived from them is derived once a replay, as it is once a step of a model.
class LayerSteps : public Subject {
 public:
  // Whether the mixer's steps can be recorded, and are what decodes: on a GPU, with the project's own attention.
  static bool serves(const LayerBench& config, const std::string& mixer);

  LayerSteps(const LayerBench& config, const std::string& mixer, int64_t seq, int64_t batch);
  void run() override;
  double flops() const override;
  double bytes() const override;
  int64_t repeats() const override { return passes_ * static_cast<int64_t>(layers_.size()); }

 private:
  struct Layer {
    std::unique_ptr<nn::Block> block;
    nn::State state;
  };
  void compute();

  const LayerBench& config_;
  at::ScalarType compute_;
  int64_t seq_, batch_, passes_ = 1;
  double weight_bytes_ = 0, state_bytes_ = 0;
  std::vector<Layer> layers_;
  at::Tensor x_, branch_, rows_, positions_;  // the stream and what the layer before leaves pending
  bool adds_itself_ = false;                  // the layer before; known after the first call
  infer::StepGraph graph_;
};

}  // namespace rattan::bench
