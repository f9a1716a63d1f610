// The flags of every verb that runs a model.
#pragma once
#include <string>
#include <vector>

#include "rattan/cli/verb.h"
#include "rattan/models/load.h"

namespace rattan::cli {

struct ModelFlags {
  std::string model, device = "cpu", dtype = "auto", cache = "full";
  int threads = 0;
  void declare(CLI::App& verb);      // the positional MODEL and --device, --dtype, --cache, --threads
  models::LoadedModel load() const;  // sets the threads; InputError as load_language_model
};

// --cache: "full", or "8bit" for keys and values in 8 bits. InputError for others.
void declare_cache(CLI::App& verb, std::string& cache);
bool in_8_bits(const std::string& cache);

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
