// The flags of every verb that runs a model.
#pragma once
#include <string>
#include <vector>

#include "rattan/cli/verb.h"
#include "rattan/models/load.h"

namespace rattan::cli {

struct ModelFlags {
  std::string model, device = "cpu", dtype = "auto";
  int threads = 0;
  void declare(CLI::App& verb);      // the positional MODEL and --device, --dtype, --threads
  models::LoadedModel load() const;  // sets the threads; InputError as load_language_model
};

// For our own loops and for torch's; nothing for 0.
void use_threads(int threads);

// A line for people on stderr.
void note(const std::string& text);
void warn(const std::string& text);  // "warning: ..."

// The tokenizer of a model. InputError if its folder has none.
const Tokenizer& tokenizer_of(const models::LoadedModel& loaded);

// A text given by flag, file or standard input ("-"); `what` stands in the error when there is none or several.
struct TextSource {
  std::vector<std::string> texts;
  std::string file, input;
  std::string one(const std::string& what) const;
};

// "1,2,3", white space allowed. InputError with the place of what is not a number.
std::vector<int32_t> parse_ids(const std::string& text);

}  // namespace rattan::cli
