// Bytes as tokens: ids 0..255 are the bytes themselves, 256 is </s>.
#include <fmt/core.h>

#include "rattan/base/files.h"
#include "rattan/data/tokenizer.h"

namespace rattan {
namespace bytes_tokenizer_file {

constexpr int32_t kEos = 256;

class BytesEncoder final : public Encoder {
 public:
  void encode(std::string_view text, std::vector<int32_t>& ids) override {
    for (char c : text) ids.push_back(static_cast<unsigned char>(c));
  }
  void encode_more(std::string_view text, std::vector<int32_t>& ids) override { encode(text, ids); }
};

class BytesTokenizer final : public Tokenizer {
 public:
  BytesTokenizer() {
    std::vector<std::string> pieces(257);
    for (int c = 0; c < 256; ++c) pieces[static_cast<std::size_t>(c)] = static_cast<char>(c);
    set_pieces(std::move(pieces));
  }
  std::string kind() const override { return "bytes"; }
  int64_t vocab_size() const override { return 257; }
  int32_t bos() const override { return -1; }
  int32_t eos() const override { return kEos; }
  bool lossless() const override { return true; }
  std::unique_ptr<Encoder> encoder() const override { return std::make_unique<BytesEncoder>(); }
  std::size_t safe_cut(std::string_view text) const override { return text.size(); }
  std::string piece_name(int32_t id) const override {
    return id == kEos ? "</s>" : fmt::format("<0x{:02X}>", static_cast<unsigned char>(decode_piece(id)[0]));
  }
  std::string fingerprint() const override { return "bytes:257"; }
  std::filesystem::path save(const std::filesystem::path& folder) const override {
    std::filesystem::path path = folder / "tokenizer.bytes";
    write_file(path, "bytes\n");
    return path;
  }
};

}  // namespace bytes_tokenizer_file

std::unique_ptr<Tokenizer> bytes_tokenizer() { return std::make_unique<bytes_tokenizer_file::BytesTokenizer>(); }

}  // namespace rattan
