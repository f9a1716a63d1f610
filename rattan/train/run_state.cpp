#include "rattan/train/run_state.h"

#include <fmt/core.h>

#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <thread>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/io/model_folder.h"
#include "rattan/io/safetensors_tensors.h"

namespace rattan::train {
namespace run_state_file {

constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kCarriedFile = "carried.safetensors";
constexpr const char* kStateFile = "state.json";
constexpr const char* kFormat = "rattan-run";

void pause_if_asked() {
  if (const char* text = std::getenv("RATTAN_TEST_SLOW_CHECKPOINT_MS")) {
    std::this_thread::sleep_for(std::chrono::milliseconds(std::atoi(text)));
  }
}

// A state's tree as names "child.child.field"; its length under "length".
void flatten(const nn::State& state, const std::string& prefix, Tensors& out) {
  if (state.length.defined()) out[prefix + "length"] = state.length;
  for (const auto& [name, value] : state.t) out[fmt::format("{}t.{}", prefix, name)] = value;
  for (const auto& [name, child] : state.child) flatten(child, fmt::format("{}child.{}.", prefix, name), out);
}

void unflatten(const Tensors& tensors, at::Device device, nn::State& state) {
  state = {};
  for (const auto& [name, value] : tensors) {
    nn::State* at = &state;
    std::string rest = name;
    while (rest.starts_with("child.")) {
      std::size_t end = rest.find('.', 6);
      at = &at->child[rest.substr(6, end - 6)];
      rest = rest.substr(end + 1);
    }
    if (rest == "length") {
      at->length = value;
    } else {
      at->t[rest.substr(2)] = value.to(device);
    }
  }
}

at::Device device_of(models::Model& model) {
  at::Device device = at::kCPU;
  model.each_param([&](const std::string&, nn::Param& p) { device = p.master().device(); });
  return device;
}

void load_model(const std::filesystem::path& path, models::Model& model) {
  SafetensorsFile file(path);
  Tensors targets = model_tensors(model);
  std::map<std::string, Shape> shapes;
  for (const auto& [name, value] : targets) shapes[name] = value.sizes().vec();
  check_tensors(file, shapes);
  for (const auto& [name, value] : targets) load_into(value, *file.find(name), path.string());
  model.each_param([](const std::string&, nn::Param& param) { param.changed(); });
}

}  // namespace run_state_file

Tensors model_tensors(models::Model& model) {
  Tensors out;
  model.each_param([&](const std::string& name, nn::Param& param) { out[name] = param.master(); });
  model.each_buffer([&](const std::string& name, nn::Buffer& buffer) {
    if (buffer.persistent) out[name] = buffer.value;
  });
  return out;
}

void save_run_state(const std::filesystem::path& folder, models::Model& model, Task& task, const RunState& state,
                    const SaveModel& save_model) {
  using namespace run_state_file;
  pause_if_asked();
  save_model(folder, model_tensors(model));
  pause_if_asked();
  save_tensors(folder / kOptimizerFile, state.fit.optimizer);
  pause_if_asked();
  if (const nn::State* carried = task.carried()) {
    Tensors tensors;
    flatten(*carried, "", tensors);
    save_tensors(folder / kCarriedFile, tensors);
  }
  nlohmann::json text = {{"format", kFormat},
                         {"version", 1},
                         {"task", task.name()},
                         {"step", state.fit.step},
                         {"rng_position", state.fit.rng_position},
                         {"data_position", task.stream(Split::train).position()},
                         {"tokens", state.tokens},
                         {"seconds", state.seconds}};
  write_file(folder / kStateFile, text.dump(2) + "\n");
  pause_if_asked();
}

void load_run_state(const std::filesystem::path& folder, models::Model& model, Task& task, RunState& state) {
  using namespace run_state_file;
  auto path = folder / kStateFile;
  auto text = nlohmann::json::parse(read_file(path), nullptr, false);
  try {
    if (text.is_discarded() || text.at("format") != kFormat || text.at("version") != 1) {
      fail_input("{}: not the state of a training run of this version; use another checkpoint", path.string());
    }
    std::string name = text.at("task");
    require(name == task.name(), "{}: the checkpoint belongs to the task '{}', this run's is '{}'", path.string(), name,
            task.name());
    state.fit.step = text.at("step");
    state.fit.rng_position = text.at("rng_position");
    state.tokens = text.at("tokens");
    state.seconds = text.at("seconds");
    load_model(folder / kWeightsFile, model);
    state.fit.optimizer = load_tensors(folder / kOptimizerFile);
    if (nn::State* carried = task.carried()) {
      unflatten(load_tensors(folder / kCarriedFile), device_of(model), *carried);
    }
    task.stream(Split::train).restore(text.at("data_position"));
  } catch (const nlohmann::json::exception& error) {
    fail_input("{}: damaged ({}); use another checkpoint", path.string(), error.what());
  }
}

}  // namespace rattan::train
