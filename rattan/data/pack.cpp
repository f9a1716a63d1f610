#include "rattan/data/pack.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/data/partial_folder.h"
#include "rattan/data/split_writer.h"

namespace rattan {
namespace pack_file {

// A portion of text as tokens.
struct Encoded {
  struct Part {
    std::size_t end;  // in `ids`
    int64_t bytes;
    bool first, last;
  };
  std::vector<int32_t> ids;
  std::vector<Part> parts;
  std::exception_ptr error;
};

Encoded encode(const TextPortion& portion, const InputOptions& options, Encoder& encoder) {
  Encoded encoded;
  std::string storage;
  for (const auto& item : portion.items) {
    std::string_view text = item_text(portion, item, options, storage);
    if (item.first)
      encoder.encode(text, encoded.ids);
    else
      encoder.encode_more(text, encoded.ids);
    encoded.parts.push_back({encoded.ids.size(), static_cast<int64_t>(text.size()), item.first, item.last});
  }
  return encoded;
}

// All threads do the same: take the next portion, encode it, and put what is next in order into the shards.
class Pipeline {
 public:
  Pipeline(const PackConfig& config, const Tokenizer& tokenizer, DocumentReader& reader, Divider& divider, int threads)
      : config_(config), tokenizer_(tokenizer), reader_(reader), divider_(divider), window_(2 * threads + 2) {}

  int64_t empty_documents() const { return empty_; }

  void run(int threads) {
    std::vector<std::thread> team;
    for (int i = 1; i < threads; ++i) team.emplace_back([this] { work(); });
    work();
    for (std::thread& thread : team) thread.join();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void work() {
    std::unique_ptr<Encoder> encoder = tokenizer_.encoder();
    TextPortion portion;
    for (;;) {
      int64_t number;
      Encoded encoded;
      {
        std::lock_guard reading(read_mutex_);
        if (!may_read()) return;
        number = next_read_++;
        try {
          ended_ = !reader_.next(portion);
        } catch (...) {
          encoded.error = std::current_exception();
          ended_ = true;
        }
        if (ended_ && !encoded.error) return;
        bytes_read_ = reader_.bytes_read();
      }
      if (!encoded.error) {
        try {
          encoded = encode(portion, config_.input, *encoder);
        } catch (...) {
          encoded.error = std::current_exception();
        }
      }
      put(number, std::move(encoded));
    }
  }

  // Waits while too much is encoded that cannot be written yet.
  bool may_read() {
    std::unique_lock lock(mutex_);
    written_.wait(lock, [this] { return error_ || next_read_ - next_write_ < window_; });
    return !error_ && !ended_;
  }

  void put(int64_t number, Encoded encoded) {
    std::unique_lock lock(mutex_);
    waiting_.emplace(number, std::move(encoded));
    if (writing_) return;
    writing_ = true;
    while (!error_ && !waiting_.empty() && waiting_.begin()->first == next_write_) {
      Encoded next = std::move(waiting_.begin()->second);
      waiting_.erase(waiting_.begin());
      lock.unlock();
      std::exception_ptr error;
      try {
        write(next);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      error_ = error;
      ++next_write_;
      written_.notify_all();
    }
    writing_ = false;
  }

  void write(const Encoded& encoded) {
    if (encoded.error) std::rethrow_exception(encoded.error);
    std::size_t begin = 0;
    for (const auto& part : encoded.parts) {
      // Only a JSON line can turn out to be empty here; its document is then both first and last.
      bool empty = part.first && part.last && part.bytes == 0;
      if (empty)
        ++empty_;
      else
        divider_.part(std::span(encoded.ids).subspan(begin, part.end - begin), part.bytes, part.first, part.last);
      begin = part.end;
    }
    if (config_.progress) config_.progress(bytes_read_);
  }

  const PackConfig& config_;
  const Tokenizer& tokenizer_;
  DocumentReader& reader_;
  Divider& divider_;
  const int64_t window_;

  std::mutex read_mutex_;
  std::atomic<int64_t> next_read_ = 0, bytes_read_ = 0;
  std::atomic<bool> ended_ = false;

  std::mutex mutex_;
  std::condition_variable written_;
  std::map<int64_t, Encoded> waiting_;
  int64_t next_write_ = 0, empty_ = 0;
  bool writing_ = false;
  std::exception_ptr error_;
};

void check(const PackConfig& config, const Tokenizer& tokenizer) {
  const Holdout& holdout = config.holdout;
  int ways = (holdout.fraction != 0) + (holdout.count != 0) + (holdout.last != 0);
  require(ways <= 1, "hold out a fraction, a count, or the last documents; not several of these");
  require(holdout.fraction >= 0 && holdout.fraction < 1, "the held-out fraction must be in [0, 1), got {}",
          holdout.fraction);
  require(holdout.count >= 0 && holdout.last >= 0, "the number of documents to hold out must be 0 or more, got {}",
          std::min(holdout.count, holdout.last));
  require(config.threads >= 0 && config.threads <= 1024, "threads must be 0 (one a core) to 1024, got {}",
          config.threads);
  require(config.shard_tokens >= 1, "a shard must hold at least 1 token, got {}", config.shard_tokens);
  require(tokenizer.eos() >= 0, "{}: this tokenizer has no end-of-document token, which packed data needs",
          config.tokenizer.string());
}

}  // namespace pack_file

PackReport pack(const PackConfig& config) {
  using namespace pack_file;
  std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(config.tokenizer);
  check(config, *tokenizer);
  InputFiles inputs = find_inputs(config.inputs, config.input);
  PartialFolder folder(config.out, config.overwrite, "manifest.json");
  DocumentReader reader(inputs.paths, config.input, [&](std::string_view text) { return tokenizer->safe_cut(text); });
  Divider divider(folder.path(), *tokenizer, config.holdout, config.shard_tokens);
  int threads =
      config.threads > 0 ? config.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  Pipeline pipeline(config, *tokenizer, reader, divider, threads);
  pipeline.run(threads);

  PackReport report;
  report.files = static_cast<int64_t>(inputs.paths.size());
  report.ignored_files = inputs.ignored;
  report.empty_documents = reader.empty_documents() + pipeline.empty_documents();
  report.manifest.tokenizer = tokenizer->fingerprint();
  report.manifest.vocab_size = tokenizer->vocab_size();
  report.manifest.eos = tokenizer->eos();
  report.manifest.splits = divider.close();
  tokenizer->save(folder.path());
  write_file(folder.path() / "manifest.json", report.manifest.to_json());
  folder.publish();
  return report;
}

}  // namespace rattan
