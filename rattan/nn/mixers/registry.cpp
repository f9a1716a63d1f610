#include "rattan/nn/mixers/registry.h"

#include <fmt/ranges.h>

#include "rattan/base/config.h"
#include "rattan/base/error.h"

namespace rattan::nn {

// One line here and one file beside this one make a mixer.
#define RATTAN_MIXERS(X) \
  X(rat)                 \
  X(attention)           \
  X(swa)                 \
  X(rnn)

#define X(name) extern const MixerType name##_mixer;
RATTAN_MIXERS(X)
#undef X

const std::vector<MixerType>& mixer_types() {
  static const std::vector<MixerType> table = {
#define X(name) name##_mixer,
      RATTAN_MIXERS(X)
#undef X
  };
  return table;
}

const MixerType& mixer_type(const std::string& name) {
  std::vector<std::string> known;
  for (const MixerType& type : mixer_types()) {
    if (name == type.name) return type;
    known.push_back(type.name);
  }
  const std::string near = nearest(name, known);
  fail_input("unknown mixer type '{}'; known are {}{}", name, fmt::join(known, ", "),
             near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near));
}

void MixerConfig::fields(Fields& f) {
  std::vector<std::string> known;
  for (const MixerType& entry : mixer_types()) known.push_back(entry.name);
  f("type", type, "which mixer this is", one_of(known));
  if (!options_ || options_type_ != type) {
    options_ = mixer_type(type).options();
    options_type_ = type;
  }
  options_->fields(f);
}

std::unique_ptr<Mixer> MixerConfig::make(const MixerContext& context) const {
  if (!options_) fail("a mixer is made before its options were read");
  return options_->make(context);
}

}  // namespace rattan::nn
