// What a sentencepiece .model file says, read without the library.
//
// The file is one protocol-buffer message (sentencepiece_model.proto of the SentencePiece project). The
// library trusts it: a hostile file makes it read outside its tables. So the file is read and checked here
// first, and only what passes is handed over.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rattan {

struct SentencePieceModel {
  enum class Type { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  struct Piece {
    std::string text;  // a blank is written U+2581
    float score = 0;
    Type type = Type::normal;
  };
  std::vector<Piece> pieces;
  int64_t algorithm = 1;  // 1 unigram, 2 BPE
  bool byte_fallback = false, suffix_blank = false;
  std::string unknown_text = " \xE2\x81\x87 ";  // what an unknown token decodes to
  bool dummy_prefix = true, removes_blanks = true, escapes_blanks = true;
  std::string character_map;  // normalization rules; empty: none
  bool denormalizes = false;
};

// InputError, starting with `source`, for what is not such a model or is damaged.
SentencePieceModel parse_sentencepiece_model(std::string_view content, const std::string& source);

}  // namespace rattan
