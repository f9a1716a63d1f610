// The stepper that `fit` hands to a task: gathers gradients of micro-batches and makes the updates.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "rattan/train/fit.h"
#include "rattan/train/optimizer.h"

namespace rattan::train {

class FitStepper : public Stepper {
 public:
  FitStepper(models::Model& model, const FitConfig& config, FitState& state);

  void backward(const nn::Loss& loss, const nn::Sink& sink) override;
  void step() override;
  Rng& rng() override { return rng_; }

  // The updates made since the last call; loss, gradient norm, learning rate and extra are filled in.
  std::vector<StepReport> take_reports();
  bool between_updates() const { return pending_ == 0; }

 private:
  // A sum and a count, kept on the device until the step is made.
  struct Total {
    at::Tensor sum, count;
    void add(const nn::Loss& loss);
  };
  // What the host reads of a step.
  struct Figures {
    double loss = 0, count = 0, grad_norm = 0;  // the norm of the gradient's sum
    std::map<std::string, double> extra;        // means of auxiliary losses, metrics
  };
  struct Auxiliary {
    Total total;
    std::vector<at::Tensor> grads;  // of its sum, in the order of optimizer_.params()
  };
  void backward_auxiliary(const std::string& name, const nn::Loss& loss);
  void add_auxiliary(const at::Tensor& main_count);
  Figures read(int64_t step) const;
  void update();

  models::Model& model_;
  const FitConfig& config_;
  FitState& state_;
  AdamW optimizer_;
  Rng rng_;
  int64_t pending_ = 0;
  Total main_;
  std::map<std::string, Auxiliary> aux_;
  std::map<std::string, at::Tensor> metrics_;
  std::vector<StepReport> reports_;
};

}  // namespace rattan::train
