// A sentencepiece model is either refused with InputError or encodes and decodes; and any text survives a lossless
// tokenizer. The first byte of the input says which: 'm' a model (what follows), 't' a text for a tokenizer trained
// here, 'b' a text for bytes.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "rattan/base/error.h"
#include "rattan/data/tokenizer.h"
#include "rattan/data/tokenizer_training.h"

namespace rattan::tokenizer_fuzz {

void round_trip(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids = tokenizer.encode(text);
  std::string back = tokenizer.decode(ids);
  if (tokenizer.lossless() && back != text) std::abort();
  std::size_t cut = tokenizer.safe_cut(text);
  if (cut == 0) return;
  std::vector<int32_t> pieces;
  auto encoder = tokenizer.encoder();
  encoder->encode(text.substr(0, cut), pieces);
  encoder->encode_more(text.substr(cut), pieces);
  if (pieces != ids) std::abort();
}

const Tokenizer& trained() {
  static const auto tokenizer = [] {
    std::string text;
    for (int i = 0; i < 3000; ++i)
      text += "the " + std::to_string(i * i % 997) + " ways of the bewildered, and \xC3\xA9t\xC3\xA9s\n";
    TokenizerTrainer trainer({"bpe", 300});
    trainer.add(text);
    return sentencepiece_tokenizer(trainer.train(), "trained");
  }();
  return *tokenizer;
}

void check(std::string_view input) {
  if (input.empty()) return;
  std::string_view rest = input.substr(1);
  if (input[0] == 't') round_trip(trained(), rest);
  if (input[0] == 'b') round_trip(*bytes_tokenizer(), rest);
  if (input[0] != 'm') return;
  try {
    auto tokenizer = sentencepiece_tokenizer(std::string(rest), "fuzz");
    for (std::string_view text :
         {"", " ", "hello  world", "the \xE2\x96\x81 \xFF\xC3\xA9 <0x41>\n", "aaaaaaaaaaaaaaaa"})
      round_trip(*tokenizer, text);
  } catch (const InputError&) {
  }
}

}  // namespace rattan::tokenizer_fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  rattan::tokenizer_fuzz::check({reinterpret_cast<const char*>(data), size});
  return 0;
}
