#include "rattan/train/verify_resume.h"

#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/io/checkpoint.h"
#include "rattan/io/model_folder.h"
#include "rattan/io/safetensors_tensors.h"
#include "rattan/train/run_state.h"

namespace rattan::train {
namespace verify_resume_file {

namespace fs = std::filesystem;

struct Folder {
  fs::path path;
  explicit Folder(fs::path at) : path(std::move(at)) {
    require(!fs::exists(path), "{}: exists; the proof needs a folder of its own", path.string());
    std::error_code problem;
    fs::create_directories(path, problem);
    if (problem) fail("{}: cannot be made: {}", path.string(), problem.message());
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

void save_weights(const fs::path& folder, const Tensors& tensors) { save_tensors(folder / kWeightsFile, tensors); }

// Trains up to step `end` and writes the checkpoint of it; returns its folder.
fs::path train_to(Start& at, const FitConfig& config, RunState& state, int64_t end, const fs::path& root,
                  std::vector<double>& losses) {
  FitHooks hooks;
  hooks.on_step = [&](const StepReport& r) { losses.push_back(r.loss); };
  hooks.after_step = [&](const FitState& fit) { return fit.step >= end; };
  FitConfig quiet = config;
  quiet.eval_every = 0;
  fit(*at.model, *at.task, quiet, state.fit, hooks);
  return write_checkpoint(
             root, state.fit.step,
             [&](const fs::path& folder) { save_run_state(folder, *at.model, *at.task, state, save_weights); })
      .folder;
}

void compare_files(const fs::path& a, const fs::path& b, const std::string& name, ResumeProof& proof) {
  if (!fs::exists(a / name) && !fs::exists(b / name)) return;
  SafetensorsFile left(a / name), right(b / name);
  std::set<std::string> names;
  for (const auto& t : left.tensors()) names.insert(t.name);
  for (const auto& t : right.tensors()) names.insert(t.name);
  for (const std::string& tensor : names) {
    const StoredTensor* x = left.find(tensor);
    const StoredTensor* y = right.find(tensor);
    ++proof.tensors;
    bool equal = x && y && x->type == y->type && x->shape == y->shape && x->bytes.size() == y->bytes.size() &&
                 std::memcmp(x->bytes.data(), y->bytes.data(), x->bytes.size()) == 0;
    if (!equal) proof.differences.push_back(fmt::format("{}: {}", name, tensor));
  }
}

void compare_positions(const fs::path& a, const fs::path& b, ResumeProof& proof) {
  auto left = nlohmann::json::parse(read_file(a / "state.json"));
  auto right = nlohmann::json::parse(read_file(b / "state.json"));
  for (const char* key : {"step", "rng_position", "data_position"}) {
    if (left.at(key) != right.at(key)) proof.differences.push_back(std::string("state.json: ") + key);
  }
}

}  // namespace verify_resume_file

ResumeProof verify_resume(const std::function<Start()>& start, const FitConfig& config, int64_t k,
                          const std::filesystem::path& folder) {
  using namespace verify_resume_file;
  require(k > 0 && 2 * k <= config.steps, "a proof over 2 x {} steps needs train.steps of at least {}, got {}", k,
          2 * k, config.steps);
  Folder work(folder);
  std::vector<double> whole_losses, part_losses;
  fs::path whole, half, resumed;
  {
    Start at = start();
    RunState state;
    whole = train_to(at, config, state, 2 * k, work.path / "whole", whole_losses);
  }
  {
    Start at = start();
    RunState state;
    half = train_to(at, config, state, k, work.path / "parts", part_losses);
  }
  {
    Start at = start();
    RunState state;
    verify_checkpoint(half);
    load_run_state(half, *at.model, *at.task, state);
    resumed = train_to(at, config, state, 2 * k, work.path / "parts", part_losses);
  }
  ResumeProof proof;
  for (const char* name : {"model.safetensors", "optimizer.safetensors", "carried.safetensors"}) {
    compare_files(whole, resumed, name, proof);
  }
  compare_positions(whole, resumed, proof);
  for (std::size_t i = 0; i < std::max(whole_losses.size(), part_losses.size()); ++i) {
    bool equal = i < whole_losses.size() && i < part_losses.size() &&
                 std::bit_cast<uint64_t>(whole_losses[i]) == std::bit_cast<uint64_t>(part_losses[i]);
    if (!equal) proof.differences.push_back(fmt::format("loss of step {}", i + 1));
  }
  return proof;
}

}  // namespace rattan::train
