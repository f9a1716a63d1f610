#include "rattan/infer/engine/session.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>

#include "rattan/base/error.h"
#include "rattan/data/checksum.h"
#include "rattan/data/tokenizer.h"
#include "rattan/io/safetensors_tensors.h"

namespace rattan::infer {
namespace session_file {

constexpr const char* format = "rattan-session";
constexpr const char* version = "2";

std::string checksum(const std::map<std::string, at::Tensor>& tensors) {
  Checksum sum;
  for (const auto& [name, tensor] : tensors) sum.add(tensor.const_data_ptr(), tensor.nbytes());
  return checksum_text(sum.value());
}

// The file's tensors by name. For reading: storage of the right types and shapes.
std::map<std::string, at::Tensor> by_name(const StateStore& store, const std::vector<at::Tensor>& state) {
  std::map<std::string, at::Tensor> out;
  for (std::size_t g = 0; g < state.size(); ++g)
    for (std::size_t i = 0; i < store.groups()[g].members.size(); ++i)
      out["state." + store.groups()[g].members[i]] = state[g].select(0, static_cast<int64_t>(i)).contiguous();
  return out;
}

std::string meta(const SafetensorsFile& file, const std::string& key) {
  const auto at = file.metadata().find(key);
  return at == file.metadata().end() ? "" : at->second;
}

at::Tensor checked(const SafetensorsFile& file, const std::string& name, at::ScalarType type, at::IntArrayRef shape) {
  const StoredTensor* stored = file.find(name);
  require(stored, "{}: the tensor {} is missing", file.source(), name);
  require(scalar_type_of(stored->type) == type && at::IntArrayRef(stored->shape) == shape,
          "{}: the tensor {} is {} {}, not what {} tokens of this model have", file.source(), name,
          name_of(stored->type), shape_text(stored->shape), file.find("tokens")->shape[0]);
  return to_tensor(*stored);
}

}  // namespace session_file

std::vector<at::Tensor> state_of(const StateStore& store, int64_t row, int64_t tokens) {
  std::vector<at::Tensor> out;
  for (const StateStore::Group& group : store.groups()) {
    const at::Tensor part = group.part(row, 0, group.entries(tokens));
    at::Tensor host = at::empty(part.sizes(), part.options().device(at::kCPU));
    out.push_back(host.copy_(part));
  }
  return out;
}

PrefixCache::Parts parts_of(const StateStore& store, const Session& session) {
  return [&](std::size_t g, int64_t from, int64_t to) {
    const StateStore::Group& group = store.groups()[g];
    return group.grows() || group.ring() ? session.state[g].narrow(1, from, to - from) : session.state[g];
  };
}

void write_session(const std::filesystem::path& path, const Session& session, const StateStore& store,
                   const std::string& model, const Tokenizer& tokenizer) {
  using namespace session_file;
  std::map<std::string, at::Tensor> tensors = by_name(store, session.state);
  at::Tensor ids = at::empty({static_cast<int64_t>(session.tokens.size())}, at::kInt);
  std::copy(session.tokens.begin(), session.tokens.end(), ids.data_ptr<int32_t>());
  tensors["tokens"] = ids;
  std::map<std::string, std::string> metadata = {{"format", format},
                                                 {"version", version},
                                                 {"model", model},
                                                 {"tokenizer", tokenizer.fingerprint()},
                                                 {"checksum", checksum(tensors)}};
  for (const auto& [key, value] : session.notes) metadata["note." + key] = value;
  save_tensors(path, tensors, metadata);
}

Session read_session(const std::filesystem::path& path, const StateStore& store, const std::string& model,
                     const Tokenizer& tokenizer) {
  using namespace session_file;
  const SafetensorsFile file(path);
  require(meta(file, "format") == format, "{}: not a saved conversation", file.source());
  require(meta(file, "version") == version, "{}: a conversation in version {} of the format; this program knows {}",
          file.source(), meta(file, "version"), version);
  require(meta(file, "model") == model, "{}: saved with another model", file.source());
  require(meta(file, "tokenizer") == tokenizer.fingerprint(), "{}: saved with another vocabulary", file.source());
  const StoredTensor* stored = file.find("tokens");
  require(stored && stored->type == StoredType::i32 && stored->shape.size() == 1 && stored->shape[0] >= 2,
          "{}: no list of at least 2 tokens", file.source());
  std::map<std::string, at::Tensor> all;
  const at::Tensor ids = all["tokens"] = to_tensor(*stored);
  Session session;
  const int32_t* first = ids.const_data_ptr<int32_t>();
  session.tokens.assign(first, first + ids.numel());
  const auto known = static_cast<int64_t>(session.tokens.size()) - 1;
  std::size_t count = 1;
  for (const StateStore::Group& group : store.groups()) {
    std::vector<int64_t> shape = group.field.shape;
    if (group.grows() || group.ring()) shape.insert(shape.begin(), group.entries(known));
    std::vector<at::Tensor> members;
    for (const std::string& member : group.members) {
      members.push_back(all["state." + member] = checked(file, "state." + member, group.field.dtype, shape));
      ++count;
    }
    session.state.push_back(at::stack(members));
  }
  require(count == file.tensors().size(), "{}: holds tensors that this model's state does not have", file.source());
  require(meta(file, "checksum") == checksum(all), "{}: damaged (the checksum differs)", file.source());
  for (int32_t id : session.tokens)
    require(id >= 0 && id < tokenizer.vocab_size(), "{}: holds the token {}, which is not in the vocabulary",
            file.source(), id);
  for (const auto& [key, value] : file.metadata())
    if (key.starts_with("note.")) session.notes[key.substr(5)] = value;
  return session;
}

bool is_session(const std::filesystem::path& path) {
  try {
    return session_file::meta(SafetensorsFile(path), "format") == session_file::format;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace rattan::infer
