// The mixer type `attention`: softmax attention over all earlier tokens.
#include "rattan/nn/mixers/registry.h"
#include "rattan/nn/mixers/softmax_attention.h"

namespace rattan::nn {
namespace attention_file {

struct Options : MixerOptions {
  AttentionSettings settings;
  void fields(Fields& f) override { settings.fields(f); }
  std::unique_ptr<Mixer> make(const MixerContext& context) const override {
    return settings.make("attention", context);
  }
};

}  // namespace attention_file

extern const MixerType attention_mixer;
const MixerType attention_mixer = {"attention", "softmax attention over all earlier tokens",
                                   [] { return std::unique_ptr<MixerOptions>(new attention_file::Options); }};

}  // namespace rattan::nn
