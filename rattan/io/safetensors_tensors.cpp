#include "rattan/io/safetensors_tensors.h"

#include <ATen/ops/empty.h>

#include <array>
#include <cstring>

#include "rattan/base/error.h"

namespace rattan {
namespace safetensors_tensors_file {

struct TypePair {
  StoredType stored;
  at::ScalarType scalar;
};
constexpr std::array kPairs = {TypePair{StoredType::f64, at::kDouble},
                               TypePair{StoredType::f32, at::kFloat},
                               TypePair{StoredType::f16, at::kHalf},
                               TypePair{StoredType::bf16, at::kBFloat16},
                               TypePair{StoredType::f8_e4m3, at::kFloat8_e4m3fn},
                               TypePair{StoredType::f8_e5m2, at::kFloat8_e5m2},
                               TypePair{StoredType::i64, at::kLong},
                               TypePair{StoredType::i32, at::kInt},
                               TypePair{StoredType::i16, at::kShort},
                               TypePair{StoredType::i8, at::kChar},
                               TypePair{StoredType::u64, at::kUInt64},
                               TypePair{StoredType::u32, at::kUInt32},
                               TypePair{StoredType::u16, at::kUInt16},
                               TypePair{StoredType::u8, at::kByte},
                               TypePair{StoredType::boolean, at::kBool}};

}  // namespace safetensors_tensors_file

StoredType stored_type_of(at::ScalarType type) {
  for (const auto& pair : safetensors_tensors_file::kPairs) {
    if (pair.scalar == type) return pair.stored;
  }
  fail("safetensors files cannot hold the dtype {}", c10::toString(type));
}

at::ScalarType scalar_type_of(StoredType type) {
  for (const auto& pair : safetensors_tensors_file::kPairs) {
    if (pair.stored == type) return pair.scalar;
  }
  fail("no torch dtype for {}", name_of(type));
}

at::Tensor to_tensor(const StoredTensor& stored) {
  if (stored.type == StoredType::boolean) {
    for (std::byte b : stored.bytes) {
      require(std::to_integer<int>(b) <= 1, "tensor '{}' is BOOL but holds the byte {}", stored.name,
              std::to_integer<int>(b));
    }
  }
  at::Tensor out = at::empty(stored.shape, at::TensorOptions().dtype(scalar_type_of(stored.type)).device(at::kCPU));
  if (!stored.bytes.empty()) std::memcpy(out.mutable_data_ptr(), stored.bytes.data(), stored.bytes.size());
  return out;
}

std::map<std::string, at::Tensor> load_tensors(const std::filesystem::path& path) {
  SafetensorsFile file(path);
  std::map<std::string, at::Tensor> out;
  for (const StoredTensor& stored : file.tensors()) out.emplace(stored.name, to_tensor(stored));
  return out;
}

void load_into(const at::Tensor& target, const StoredTensor& stored, const std::string& source) {
  if (target.sizes() != at::IntArrayRef(stored.shape)) {
    fail_input("{}: tensor '{}' has the shape {}, expected {}", source, stored.name, shape_text(stored.shape),
               shape_text(target.sizes().vec()));
  }
  target.detach().copy_(to_tensor(stored));
}

void save_tensors(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& tensors,
                  const std::map<std::string, std::string>& metadata) {
  std::vector<TensorSource> sources;
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.defined()) fail("cannot write {}: tensor '{}' is undefined", path.string(), name);
    sources.push_back(
        {name, stored_type_of(tensor.scalar_type()), tensor.sizes().vec(), [&tensor = tensor](const ByteWriter& write) {
           at::Tensor flat = tensor.detach().to(at::kCPU).contiguous();
           write(flat.const_data_ptr(), flat.nbytes());
         }});
  }
  write_safetensors(path, std::move(sources), metadata);
}

}  // namespace rattan
