// One model in one mode: the subjects of the model benchmark.
#pragma once
#include <memory>
#include <optional>

#include "rattan/bench/model.h"
#include "rattan/bench/subject.h"
#include "rattan/infer/decode_step.h"
#include "rattan/train/fit_stepper.h"

namespace rattan::bench {

// Built and warmed up by prepare().
class ModelCase : public Subject {
 public:
  virtual double tokens() const = 0;          // of a call
  virtual double steps() const { return 1; }  // of a call
};

class DecodeCase : public ModelCase {
 public:
  DecodeCase(const ModelBench& config, const models::LanguageModelConfig& model, int64_t batch, int64_t stride);
  void prepare() override;
  void run() override;
  double flops() const override;
  double bytes() const override;
  double tokens() const override { return static_cast<double>(batch_) * steps(); }
  double steps() const override { return static_cast<double>(positions_.size()); }

 private:
  const ModelBench& config_;
  models::LanguageModelConfig model_config_;
  int64_t batch_, stride_;
  std::vector<int64_t> positions_;  // that a call decodes
  std::unique_ptr<models::LanguageModel> model_;
  nn::State state_;
  std::optional<infer::DecodeStep> step_;
};

class PrefillCase : public ModelCase {
 public:
  PrefillCase(const ModelBench& config, const models::LanguageModelConfig& model, int64_t seq);
  void prepare() override;
  void run() override;
  double flops() const override;
  double bytes() const override;
  double tokens() const override { return static_cast<double>(config_.rows * seq_); }

 private:
  const ModelBench& config_;
  models::LanguageModelConfig model_config_;
  int64_t seq_;
  std::unique_ptr<models::LanguageModel> model_;
  nn::State state_;
  at::Tensor ids_;
};

class TrainCase : public ModelCase {
 public:
  TrainCase(const ModelBench& config, const models::LanguageModelConfig& model, int64_t seq);
  void prepare() override;
  void run() override;
  double flops() const override;
  double bytes() const override;
  double tokens() const override {
    return static_cast<double>(config_.updates * config_.accumulation * config_.rows * seq_);
  }
  double steps() const override { return static_cast<double>(config_.updates); }

 private:
  void update();
  const ModelBench& config_;
  models::LanguageModelConfig model_config_;
  int64_t seq_;
  std::unique_ptr<models::LanguageModel> model_;
  train::FitConfig fit_;
  train::FitState state_;
  std::optional<train::FitStepper> stepper_;
  at::Tensor ids_, targets_;  // on the host
};

// The matrix products of one training micro-batch, forward and backward, and nothing else.
class ModelProducts : public ModelCase {
 public:
  ModelProducts(const ModelBench& config, const models::LanguageModelConfig& model, int64_t seq);
  void prepare() override;
  void run() override;
  double flops() const override;
  double bytes() const override;
  double tokens() const override { return static_cast<double>(rows_); }

 private:
  struct Product {
    at::Tensor x, w, d_y;  // [N, in], [out, in], [N, out]
  };
  const ModelBench& config_;
  int64_t rows_;                                     // N
  std::vector<std::pair<int64_t, int64_t>> shapes_;  // [out, in] of every matrix, in the order of the model
  std::vector<Product> products_;                    // one a shape, shared by all matrices of it
  std::vector<size_t> order_;                        // product of each matrix
};

}  // namespace rattan::bench
