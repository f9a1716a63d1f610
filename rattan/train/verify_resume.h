// Proof that a resumed run is the uninterrupted one.
#pragma once
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "rattan/train/fit.h"

namespace rattan::train {

// A fresh model with its task, as at the start of a run.
struct Start {
  std::unique_ptr<models::Model> model;
  std::unique_ptr<Task> task;
};

struct ResumeProof {
  int64_t tensors = 0;                   // compared: parameters, buffers, optimizer, carried state
  std::vector<std::string> differences;  // empty: bit for bit equal
};

// Makes 2k steps in one go; k steps, a checkpoint, and k more by a fresh model from the files; and compares every
// tensor of both final checkpoints bit for bit, the data position, the random position and the losses. `folder`
// must not exist; it is made and removed. InputError if the configuration has fewer than 2k steps.
ResumeProof verify_resume(const std::function<Start()>& start, const FitConfig& config, int64_t k,
                          const std::filesystem::path& folder);

}  // namespace rattan::train
