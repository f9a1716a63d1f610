// A conversation in a file: safetensors with
//   tokens        I32 [n]
//   state.<path>  each field of the state after the first n - 1 tokens: [entries in use, shape...] or [shape...]
// and the metadata format, version, model (its fingerprint), tokenizer, checksum (XXH64 of the tensors' bytes in the
// order of their names), and the caller's notes under "note.<key>". The newest token is not part of the state: reading
// it makes the logits of the next one, so none are stored.
#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "rattan/infer/engine/prefix_cache.h"

namespace rattan {
class Tokenizer;
}

namespace rattan::infer {

struct Session {
  std::vector<int32_t> tokens;
  std::vector<at::Tensor> state;  // one a group of the store, on the host: [members, ...]
  std::map<std::string, std::string> notes;
};

std::vector<at::Tensor> state_of(const StateStore& store, int64_t row, int64_t tokens);
PrefixCache::Parts parts_of(const StateStore& store, const Session& session);

// `model`: its fingerprint.
void write_session(const std::filesystem::path& path, const Session& session, const StateStore& store,
                   const std::string& model, const Tokenizer& tokenizer);
// InputError for what is no session, is damaged, or belongs to another model or vocabulary.
Session read_session(const std::filesystem::path& path, const StateStore& store, const std::string& model,
                     const Tokenizer& tokenizer);
// Whether a file says that it is one; false for what cannot be read.
bool is_session(const std::filesystem::path& path);

}  // namespace rattan::infer
