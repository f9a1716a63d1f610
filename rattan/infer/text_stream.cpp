#include "rattan/infer/text_stream.h"

namespace rattan::infer {

std::string TextStream::push(int32_t id) {
  const std::string_view piece = tokenizer_->decode_piece(id, !begun_);
  begun_ = begun_ || !tokenizer_->decode_piece(id).empty();
  return utf8_.push(stop_.push(piece));
}

std::string TextStream::finish() {
  std::string text;
  if (!stop_.stopped()) text = utf8_.push(stop_.finish());
  return text + utf8_.finish();
}

}  // namespace rattan::infer
