#include "rattan/data/stream.h"

#include <algorithm>
#include <numeric>

#include "rattan/base/error.h"
#include "rattan/data/cursor.h"

namespace rattan {
namespace stream_file {

StreamConfig checked(const StreamConfig& config) {
  require(!config.sources.empty(), "data: no sources; give at least one folder made by `rattan data pack`");
  require(config.layout == "concat" || config.layout == "documents",
          "data: layout must be concat or documents, got \"{}\"", config.layout);
  require(config.seq_len >= 1 && config.seq_len <= 1 << 28, "data: sequence length must be 1 to 2^28, got {}",
          config.seq_len);
  require(config.batch >= 1 && config.batch <= (int64_t{1} << 32) / config.seq_len,
          "data: a batch of {} rows of {} tokens is not possible; it has 1 to 2^32 tokens", config.batch,
          config.seq_len);
  require(config.epochs >= 0, "data: epochs must be 0 (without end) or more, got {}", config.epochs);
  return config;
}

std::vector<SourceCursor> open(const StreamConfig& config) {
  std::vector<SourceCursor> sources;
  for (std::size_t i = 0; i < config.sources.size(); ++i) {
    sources.emplace_back(config, i);
    require_same_vocabulary(sources[0].data().manifest().tokenizer, sources[i].data().manifest().tokenizer,
                            config.sources[i].path);
  }
  return sources;
}

}  // namespace stream_file

void StreamSource::fields(Fields& f) {
  f("path", path, "folder made by `rattan data pack`");
  f("weight", weight, "share of the tokens, relative to the other sources'", above(0.0));
}

struct TokenStream::Impl {
  StreamConfig config;
  Mixture mixture;

  explicit Impl(const StreamConfig& wanted)
      : config(stream_file::checked(wanted)), mixture(config, stream_file::open(config)) {}

  Batch empty_batch() const {
    Batch batch;
    batch.B = config.batch;
    batch.T = config.seq_len;
    auto size = static_cast<std::size_t>(batch.B * batch.T);
    batch.tokens.assign(size, 0);
    batch.targets.assign(size, -100);
    return batch;
  }

  // Puts `count` inputs that start at token `begin` of the source, and their targets, at a place of the batch.
  void put(Batch& batch, const Dataset& data, int64_t begin, int64_t count, int64_t row, int64_t column) {
    buffer.resize(static_cast<std::size_t>(count) + 1);
    data.read(begin, buffer);
    auto place = static_cast<std::size_t>(row * batch.T + column);
    int64_t eos = data.manifest().eos;
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
      batch.tokens[place + i] = buffer[i];
      if (buffer[i] == eos) continue;
      batch.targets[place + i] = buffer[i + 1];
      ++batch.target_count;
      batch.original_bytes += data.token_bytes(buffer[i + 1]);
    }
  }

  int64_t fill_concat(Batch& batch) {
    int64_t row = 0;
    for (int source; row < batch.B && (source = mixture.choose()) >= 0; ++row) {
      SourceCursor& cursor = mixture.source(source);
      int64_t begin = cursor.unit() * batch.T;
      put(batch, cursor.data(), begin, std::min(batch.T, cursor.data().tokens() - 1 - begin), row, 0);
      mixture.advance();
    }
    return row;
  }

  int64_t fill_documents(Batch& batch) {
    std::vector<int64_t> used(static_cast<std::size_t>(batch.B), 0);
    for (int source; (source = mixture.choose()) >= 0;) {
      SourceCursor& cursor = mixture.source(source);
      int64_t index = cursor.unit();
      Document document = cursor.data().document(index);
      int64_t inputs = document.end - document.begin - 1;
      int64_t count = std::min(batch.T, inputs - cursor.offset());
      if (count > 0) {
        auto room = std::find_if(used.begin(), used.end(), [&](int64_t n) { return n + count <= batch.T; });
        if (room == used.end()) break;
        int64_t row = room - used.begin();
        put(batch, cursor.data(), document.begin + cursor.offset(), count, row, *room);
        batch.spans.push_back({row, *room, *room + count, source, index, cursor.offset()});
        *room += count;
      }
      if (cursor.offset() + count < inputs)
        cursor.set_offset(cursor.offset() + count);
      else
        mixture.advance();
    }
    std::sort(batch.spans.begin(), batch.spans.end(),
              [](const Span& a, const Span& b) { return std::pair(a.row, a.begin) < std::pair(b.row, b.begin); });
    return std::find(used.begin(), used.end(), 0) - used.begin();
  }

  std::vector<int64_t> buffer;
};

TokenStream::TokenStream(const StreamConfig& config) : impl_(std::make_unique<Impl>(config)) {}
TokenStream::~TokenStream() = default;
TokenStream::TokenStream(TokenStream&&) noexcept = default;
TokenStream& TokenStream::operator=(TokenStream&&) noexcept = default;

std::optional<Batch> TokenStream::next() {
  Batch batch = impl_->empty_batch();
  batch.B = impl_->config.layout == "concat" ? impl_->fill_concat(batch) : impl_->fill_documents(batch);
  if (batch.B == 0) return std::nullopt;
  batch.tokens.resize(static_cast<std::size_t>(batch.B * batch.T));
  batch.targets.resize(batch.tokens.size());
  batch.epoch = impl_->mixture.epoch();
  return batch;
}

std::string TokenStream::position() const { return impl_->mixture.position(); }
void TokenStream::restore(const std::string& position) { impl_->mixture.restore(position); }
const StreamConfig& TokenStream::config() const { return impl_->config; }
const Tokenizer& TokenStream::tokenizer() const { return impl_->mixture.source(0).data().tokenizer(); }
std::string TokenStream::tokenizer_fingerprint() const { return impl_->mixture.source(0).data().manifest().tokenizer; }

int64_t TokenStream::tokens_per_epoch() const {
  int64_t sum = 0;
  for (std::size_t i = 0; i < impl_->config.sources.size(); ++i)
    sum += impl_->mixture.source(static_cast<int>(i)).data().tokens();
  return sum;
}

}  // namespace rattan
