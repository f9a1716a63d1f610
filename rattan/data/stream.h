// Batches of language-model training data out of packed data (dataset.h).
//
// layout "concat": all documents one after another, cut by a fixed grid into windows of T inputs (window w has
//   inputs wT .. wT+T-1 and targets one later); nothing is reset at document boundaries (the RAT paper's
//   training data). The target after an end-of-document input is ignored. Training drops the last, incomplete
//   window (unless it is the only one); evaluation pads it.
// layout "documents": whole documents are packed into rows (first fit over the B rows of a batch) and each
//   stands in a segment of its own; one longer than T tokens is cut into pieces of T, each a segment. The
//   end-of-document token is a target, never an input. The rest of a row is padding.
//
// Shuffling permutes windows (concat) or documents (documents) anew in every epoch, in O(1) memory. With
// several sources each row (concat) or document (documents) draws its source, so that the tokens' shares
// follow the weights. Everything depends on (config, position) alone.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "rattan/base/fields.h"

namespace rattan {

class Dataset;
class Tokenizer;

struct StreamSource {
  std::string path;     // a folder made by `rattan data pack`
  double weight = 1.0;  // share of the tokens
  void fields(Fields& f);
};

struct StreamConfig {
  std::vector<StreamSource> sources;
  std::string split = "train";
  std::string layout = "concat";  // concat | documents
  int64_t seq_len = 512;          // T
  int64_t batch = 8;              // B
  uint64_t seed = 0;
  int64_t epochs = 0;  // passes over each source; 0: without end
  // Evaluation: no shuffling, source after source, every token once (epochs is then 1 unless set).
  bool sequential = false;
};

struct Span {
  int64_t row, begin, end;   // columns [begin, end) of the row
  int64_t source, document;  // index in the config; index in the source's split
  int64_t offset;            // of the first token within its document
};

struct Batch {
  int64_t B = 0, T = 0;          // the last batch of a stream may have fewer rows
  std::vector<int64_t> tokens;   // [B, T]; padding is 0
  std::vector<int64_t> targets;  // [B, T]; -100: ignored
  std::vector<Span> spans;       // layout "documents" only, by row and column
  int64_t target_count = 0;      // targets that are not ignored
  double original_bytes = 0;     // bytes of text that these targets stand for (for bits per byte)
  double epoch = 0;              // passes completed when this batch is done; mean over sources by weight
};

class TokenStream {
 public:
  // InputError for a config that cannot be, damaged data, or sources of different vocabularies.
  explicit TokenStream(const StreamConfig& config);
  ~TokenStream();
  TokenStream(TokenStream&&) noexcept;
  TokenStream& operator=(TokenStream&&) noexcept;

  std::optional<Batch> next();  // nothing after the last epoch

  // A small JSON text; a stream of the same config and data that restores it continues bit for bit.
  // restore: InputError if it belongs to another config or other data.
  std::string position() const;
  void restore(const std::string& position);

  const StreamConfig& config() const;
  const Tokenizer& tokenizer() const;  // of the first source
  std::string tokenizer_fingerprint() const;
  int64_t tokens_per_epoch() const;  // targets' upper bound: tokens of all sources

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rattan
