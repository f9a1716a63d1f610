// A conversation in a file: safetensors with
//   tokens        I32 [n]
//   state.<path>  each field of the state after the first n - 1 tokens: [entries in use, shape...] or [shape...]
// and the metadata format, version, model (a fingerprint of its parameters), tokenizer, checksum (CRC-32C of the
// tensors' bytes in the order of their names), and the caller's notes under "note.<key>". The newest token is not part
// of the state: reading it makes the logits of the next one, so none are stored.
#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "rattan/infer/engine/prefix_cache.h"
#include "rattan/models/model.h"

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

void write_session(const std::filesystem::path& path, const Session& session, const StateStore& store,
                   models::Model& model, const Tokenizer& tokenizer);
// InputError for what is no session, is damaged, or belongs to another model or vocabulary.
Session read_session(const std::filesystem::path& path, const StateStore& store, models::Model& model,
                     const Tokenizer& tokenizer);

}  // namespace rattan::infer
