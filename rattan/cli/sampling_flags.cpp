#include "rattan/cli/sampling_flags.h"

namespace rattan::cli {
namespace sampling_flags_file {

std::string unescaped(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char next = i + 1 < text.size() ? text[i + 1] : '\0';
    if (text[i] == '\\' && (next == 'n' || next == 't' || next == '\\')) {
      out += next == 'n' ? '\n' : next == 't' ? '\t' : '\\';
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace sampling_flags_file

void SamplingFlags::declare(CLI::App& verb) {
  verb.add_option("--max-tokens", max_tokens, "tokens to make at most")->capture_default_str();
  verb.add_flag("--greedy", greedy, "always the most probable token (temperature 0)");
  verb.add_option("--temperature", sampling.temperature, "divides the logits; 0 is greedy")->capture_default_str();
  verb.add_option("--top-k", sampling.top_k, "sample from the k most probable tokens; 0: from all")
      ->capture_default_str();
  verb.add_option("--top-p", sampling.top_p, "sample from the fewest tokens whose probabilities reach this sum")
      ->capture_default_str();
  verb.add_option("--min-p", sampling.min_p, "sample from tokens at least this many times as probable as the best")
      ->capture_default_str();
  verb.add_option("--repetition-penalty", sampling.repetition_penalty, "above 1: tokens already there get less likely")
      ->capture_default_str();
  verb.add_option("--seed", seed, "decides what is sampled")->capture_default_str();
  verb.add_option("--stop", stop, "end before this text; may be given several times (\\n, \\t, \\\\ are understood)")
      ->take_all()
      ->allow_extra_args(false);
}

infer::SamplerConfig SamplingFlags::config() const {
  infer::SamplerConfig config = sampling;
  if (greedy) config.temperature = 0;
  config.validate();
  return config;
}

bool SamplingFlags::given(const CLI::App& verb) {
  for (const char* flag :
       {"--greedy", "--temperature", "--top-k", "--top-p", "--min-p", "--repetition-penalty", "--seed"})
    if (verb.count(flag) > 0) return true;
  return false;
}

std::vector<std::string> SamplingFlags::stops() const {
  std::vector<std::string> out;
  for (const std::string& text : stop) out.push_back(sampling_flags_file::unescaped(text));
  return out;
}

}  // namespace rattan::cli
