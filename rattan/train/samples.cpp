#include "rattan/train/samples.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <system_error>

#include "rattan/base/error.h"
#include "rattan/base/files.h"

namespace rattan::train {
namespace samples_file {

constexpr std::string_view kBegin = "=== step ", kEnd = " ===";

std::optional<int64_t> header(std::string_view line) {
  if (!line.starts_with(kBegin) || !line.ends_with(kEnd)) return std::nullopt;
  std::string_view number = line.substr(kBegin.size(), line.size() - kBegin.size() - kEnd.size());
  int64_t step = 0;
  auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), step);
  if (error != std::errc() || end != number.data() + number.size()) return std::nullopt;
  return step;
}

std::string format(const std::vector<Sample>& samples) {
  std::string out;
  for (const Sample& sample : samples) {
    out += fmt::format("{}{}{}\n", kBegin, sample.step, kEnd);
    std::string_view rest = sample.text;
    while (!rest.empty()) {
      std::size_t end = rest.find('\n');
      std::string_view line = rest.substr(0, end);
      if (header(line)) out += ' ';
      out += line;
      out += '\n';
      rest = end == std::string_view::npos ? "" : rest.substr(end + 1);
    }
  }
  return out;
}

}  // namespace samples_file

std::vector<Sample> read_samples(const std::filesystem::path& path) {
  std::vector<Sample> out;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return out;
  std::string text = read_file(path);
  std::size_t begin = 0;
  while (begin < text.size()) {
    std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = std::string_view(text).substr(begin, end - begin);
    if (auto step = samples_file::header(line)) {
      out.push_back({*step, ""});
    } else if (!out.empty()) {
      out.back().text += line;
      out.back().text += '\n';
    }
    begin = end + 1;
  }
  return out;
}

void append_sample(const std::filesystem::path& path, const Sample& sample) {
  auto all = read_samples(path);
  all.push_back(sample);
  write_file(path, samples_file::format(all));
}

void drop_samples_after(const std::filesystem::path& path, int64_t step) {
  auto all = read_samples(path);
  auto late = std::erase_if(all, [&](const Sample& sample) { return sample.step > step; });
  if (late > 0) write_file(path, samples_file::format(all));
}

}  // namespace rattan::train
