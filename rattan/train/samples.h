// samples.txt: what the model wrote at some steps of a run.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace rattan::train {

struct Sample {
  int64_t step = 0;
  std::string text;
};

// Each sample follows a line "=== step N ==="; a line of that form inside a sample gets a space in front.
std::vector<Sample> read_samples(const std::filesystem::path& path);  // none if there is no file
void append_sample(const std::filesystem::path& path, const Sample& sample);
void drop_samples_after(const std::filesystem::path& path, int64_t step);

}  // namespace rattan::train
