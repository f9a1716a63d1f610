#include "rattan/infer/engine/state_store.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <map>
#include <tuple>

#include "rattan/base/error.h"

namespace rattan::infer {
namespace state_store_file {

using Key = std::tuple<at::ScalarType, std::vector<int64_t>, int64_t, int64_t, int64_t>;

at::ScalarType type_of(const nn::Field& field, at::ScalarType compute) {
  const bool widened = field.dtype == at::kFloat && compute == at::kDouble;
  return field.dtype == at::ScalarType::Undefined || widened ? compute : field.dtype;
}

// Every field of the tree, with the path of its spec, in a fixed order.
void each_field(const nn::StateSpec& spec, const std::string& path,
                const std::function<void(const std::string&, const nn::StateSpec&, const nn::Field&)>& visit) {
  for (const nn::Field& field : spec.fields) visit(path + field.name, spec, field);
  for (const auto& [name, child] : spec.child) each_field(child, path + name + ".", visit);
}

void put(nn::State& state, const std::string& path, const at::Tensor& value) {
  const std::size_t dot = path.find('.');
  if (dot == std::string::npos) {
    state.t[path] = value;
  } else {
    put(state.child[path.substr(0, dot)], path.substr(dot + 1), value);
  }
}

// Address space whose pages come when they are touched.
at::Tensor reserved(const std::vector<int64_t>& shape, at::ScalarType type) {
  std::size_t bytes = c10::elementSize(type);
  for (int64_t n : shape) bytes *= static_cast<std::size_t>(n);
  const std::size_t mapped = std::max<std::size_t>(bytes, 1);
  void* memory = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    fail("no address space for {} bytes of states: {}; take fewer sequences or a shorter context", bytes,
         std::strerror(errno));
  // Large pages would be filled by rows that use a little of them.
  ::madvise(memory, mapped, MADV_NOHUGEPAGE);
  return at::from_blob(
      memory, shape, [mapped](void* p) { ::munmap(p, mapped); }, at::TensorOptions().dtype(type));
}

// The whole pages within a row of every member.
void give_back(const at::Tensor& row) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const at::Tensor first = row.select(0, 0);
  const std::size_t bytes = first.nbytes(), stride = static_cast<std::size_t>(row.stride(0) * row.element_size());
  auto* data = static_cast<char*>(row.data_ptr());
  for (int64_t member = 0; member < row.size(0); ++member, data += stride) {
    const auto address = reinterpret_cast<std::uintptr_t>(data);
    const std::uintptr_t begin = (address + page - 1) / page * page, end = (address + bytes) / page * page;
    if (begin < end) ::madvise(data + (begin - address), end - begin, MADV_DONTNEED);
  }
}

}  // namespace state_store_file

int64_t StateStore::Group::entry_bytes() const {
  int64_t n = all.size(0) * static_cast<int64_t>(all.element_size());
  for (int64_t size : field.shape) n *= size;
  return n;
}

int64_t StateStore::Group::entries(int64_t tokens) const {
  if (ring()) return std::min(tokens, field.cap);
  return grows() ? (tokens + field.every - 1) / field.every : 1;
}

at::Tensor StateStore::Group::part(int64_t at_row, int64_t from, int64_t to) const {
  return grows() || ring() ? row(at_row).narrow(1, from, to - from) : row(at_row);
}

StateStore::StateStore(const nn::StateSpec& spec, int64_t rows, int64_t capacity, at::ScalarType compute,
                       at::Device device)
    : rows_(rows), capacity_(capacity), device_(device) {
  using namespace state_store_file;
  std::map<Key, std::size_t> place;
  each_field(spec, "", [&](const std::string& path, const nn::StateSpec& owner, const nn::Field& field) {
    const Key key{type_of(field, compute), field.shape, field.every, field.cap, owner.resume};
    const auto [at, fresh] = place.try_emplace(key, groups_.size());
    if (fresh) {
      groups_.push_back({.field = field, .resume = owner.resume, .members = {}, .all = {}});
      groups_.back().field.dtype = std::get<0>(key);
    }
    groups_[at->second].members.push_back(path);
  });
  for (Group& group : groups_) {
    std::vector<int64_t> shape = {static_cast<int64_t>(group.members.size()), rows};
    if (group.grows() || group.ring()) shape.push_back(spec.entries(group.field, capacity));
    shape.insert(shape.end(), group.field.shape.begin(), group.field.shape.end());
    group.all = make(shape, group.field.dtype);
    for (std::size_t i = 0; i < group.members.size(); ++i)
      put(state_, group.members[i], group.all.select(0, static_cast<int64_t>(i)));
  }
  state_.length = at::zeros({rows}, at::kLong);
}

at::Tensor StateStore::make(const std::vector<int64_t>& shape, at::ScalarType type) const {
  if (grows_on_touch()) return state_store_file::reserved(shape, type);
  return at::zeros(shape, at::TensorOptions().dtype(type).device(device_));
}

int64_t StateStore::bytes(int64_t tokens) const {
  int64_t total = 0;
  for (const Group& group : groups_) total += group.entries(tokens) * group.entry_bytes();
  return total;
}

void StateStore::copy_row(int64_t from, int64_t to, int64_t tokens) {
  for (const Group& group : groups_) {
    const int64_t n = group.entries(tokens);
    group.part(to, 0, n).copy_(group.part(from, 0, n));
  }
}

void StateStore::trim(int64_t row) {
  if (!grows_on_touch()) return;
  for (const Group& group : groups_) state_store_file::give_back(group.row(row));
}

}  // namespace rattan::infer
