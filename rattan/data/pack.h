// From text to packed data (dataset.h): documents are read in portions of about 1 MiB, encoded by several
// threads and written in order, so that the result depends neither on the number of threads nor on timing, and
// memory stays bounded however long the input or one document is.
//
// Every document ends with the tokenizer's end-of-document token; empty documents are left out. The folder is
// written aside (OUT.partial) and renamed when it is complete, with the manifest as its last file.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "rattan/data/dataset.h"
#include "rattan/data/documents.h"

namespace rattan {

// Which whole documents go into the split "valid"; at most one of the three. The choice by fraction or count
// hashes (seed, index of the document); the last ones are taken in the order of the input. Documents that are
// held back until the end of the input is known (count, last) may have 64M tokens together.
struct Holdout {
  double fraction = 0;
  int64_t count = 0;
  int64_t last = 0;
  uint64_t seed = 0;
};

struct PackConfig {
  std::vector<std::string> inputs;
  InputOptions input;
  std::filesystem::path tokenizer;
  std::filesystem::path out;
  Holdout holdout;
  int threads = 0;                                   // 0: one a core
  int64_t shard_tokens = int64_t{1} << 28;           // a shard is closed by the document that reaches this
  bool overwrite = false;                            // replace packed data that is there
  std::function<void(int64_t bytes_read)> progress;  // called now and then, from any thread, one at a time
};

struct PackReport {
  Manifest manifest;
  int64_t files = 0, ignored_files = 0, empty_documents = 0;
};

// InputError for wrong input; on any failure OUT is as it was before.
PackReport pack(const PackConfig& config);

}  // namespace rattan
