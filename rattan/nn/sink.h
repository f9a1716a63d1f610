// Where a mixer leaves what is neither its output nor its state: auxiliary losses, metrics, taps. A plain
// value: activation checkpointing gives each block a fresh one and hands its losses on as outputs.
#pragma once
#include <map>
#include <set>
#include <string>

#include "rattan/nn/loss.h"

namespace rattan::nn {

struct Sink {
  std::map<std::string, Loss> losses;         // same name: added. Weights: the task's aux.<name>
  std::map<std::string, at::Tensor> metrics;  // the last value wins
  std::map<std::string, at::Tensor> taps;
  std::set<std::string> wanted;  // taps somebody asked for

  void loss(const std::string& name, Loss value);
  void metric(const std::string& name, at::Tensor value) { metrics[name] = std::move(value); }
  bool wants(const std::string& name) const { return wanted.contains(name); }
  void tap(const std::string& name, at::Tensor value) {
    if (wants(name)) taps[name] = std::move(value);
  }
};

}  // namespace rattan::nn
