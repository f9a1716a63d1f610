// The table of mixer types.
#pragma once
#include <string>
#include <vector>

#include "rattan/nn/mixer.h"

namespace rattan::nn {

struct MixerType {
  const char* name;
  const char* summary;
  std::unique_ptr<MixerOptions> (*options)();
};

const std::vector<MixerType>& mixer_types();
const MixerType& mixer_type(const std::string& name);  // InputError names the nearest known type

// A [mixers.<name>] table: its type, then the keys of that type.
class MixerConfig {
 public:
  std::string type = "rat";
  void fields(Fields& f);
  std::unique_ptr<Mixer> make(const MixerContext& context) const;
  MixerOptions& options() { return *options_; }

 private:
  std::string options_type_;
  std::shared_ptr<MixerOptions> options_;
};

}  // namespace rattan::nn
