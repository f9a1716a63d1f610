#include <algorithm>
#include <filesystem>

#include "rattan/base/error.h"
#include "rattan/data/documents.h"

namespace rattan {
namespace input_files_file {

namespace fs = std::filesystem;

void add_folder(const fs::path& folder, const InputOptions& options, InputFiles& found) {
  std::vector<std::string> paths;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    if (input_kind(entry.path().string(), options).empty())
      ++found.ignored;
    else
      paths.push_back(entry.path().string());
  }
  require(!paths.empty(), "{}: no .txt or .jsonl files (or these with .gz or .zst) in this folder{}", folder.string(),
          found.ignored > 0 ? fmt::format("; it has {} others, which --format text or jsonl would read", found.ignored)
                            : "");
  std::sort(paths.begin(), paths.end());
  found.paths.insert(found.paths.end(), paths.begin(), paths.end());
}

}  // namespace input_files_file

std::string input_kind(const std::string& path, const InputOptions& options) {
  if (options.format != "auto") return options.format;
  std::string_view name = path;
  if (name == "-") return "text";
  for (std::string_view ending : {".gz", ".zst"})
    if (name.ends_with(ending)) name.remove_suffix(ending.size());
  if (name.ends_with(".txt")) return "text";
  if (name.ends_with(".jsonl")) return "jsonl";
  return "";
}

InputFiles find_inputs(const std::vector<std::string>& inputs, const InputOptions& options) {
  using namespace input_files_file;
  require(options.format == "auto" || options.format == "text" || options.format == "jsonl",
          "input format must be auto, text or jsonl, got \"{}\"", options.format);
  require(options.documents == "file" || options.documents == "lines" || options.documents == "blank",
          "documents must be divided by file, lines or blank (lines), got \"{}\"", options.documents);
  require(!inputs.empty(), "no input; give files, folders, or - for standard input");
  InputFiles found;
  for (const std::string& input : inputs) {
    std::error_code error;
    if (input == "-") {
      found.paths.push_back(input);
    } else if (fs::is_directory(input, error)) {
      add_folder(input, options, found);
    } else {
      require(fs::exists(input, error), "{}: no such file or folder", input);
      require(
          !input_kind(input, options).empty(),
          "{}: the kind of file is not known from its name; expected .txt or .jsonl (or these with .gz or .zst), or "
          "say --format text or --format jsonl",
          input);
      found.paths.push_back(input);
    }
  }
  require(std::count(found.paths.begin(), found.paths.end(), "-") <= 1, "standard input (-) is given twice");
  return found;
}

}  // namespace rattan
