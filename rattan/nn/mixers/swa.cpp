// The mixer type `swa`: softmax attention in a sliding window.
#include "rattan/nn/mixers/registry.h"
#include "rattan/nn/mixers/softmax_attention.h"

namespace rattan::nn {
namespace swa_file {

struct Options : MixerOptions {
  AttentionSettings settings{.window = 1024};
  void fields(Fields& f) override {
    settings.fields(f);
    f("window", settings.window, "how far back a token sees: itself and `window` tokens before it", at_least(0));
  }
  std::unique_ptr<Mixer> make(const MixerContext& context) const override { return settings.make("swa", context); }
};

}  // namespace swa_file

extern const MixerType swa_mixer;
const MixerType swa_mixer = {"swa", "softmax attention in a sliding window",
                             [] { return std::unique_ptr<MixerOptions>(new swa_file::Options); }};

}  // namespace rattan::nn
