// Torch tensors in and out of safetensors files.
#pragma once
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

#include "rattan/io/safetensors.h"

namespace rattan {

StoredType stored_type_of(at::ScalarType type);  // Error for types the format lacks (complex, quantized)
at::ScalarType scalar_type_of(StoredType type);

// A copy on the CPU. InputError for BOOL bytes other than 0 and 1.
at::Tensor to_tensor(const StoredTensor& stored);

std::map<std::string, at::Tensor> load_tensors(const std::filesystem::path& path);

// Copies stored values into a tensor of the same shape, on its device and in its dtype (so a bf16 file fills fp32
// parameters), without a gradient graph. InputError names `source` and the tensor if the shapes differ.
void load_into(const at::Tensor& target, const StoredTensor& stored, const std::string& source);

// Any device, strides and requires_grad; one tensor at a time is brought to contiguous CPU memory.
void save_tensors(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& tensors,
                  const std::map<std::string, std::string>& metadata = {});

}  // namespace rattan
