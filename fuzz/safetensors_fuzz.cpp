// Any bytes are either refused with InputError or give views that lie inside them and cover them.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "rattan/base/error.h"
#include "rattan/io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  auto bytes = std::as_bytes(std::span(data, size));
  try {
    rattan::SafetensorsView view = rattan::parse_safetensors(bytes, "fuzz");
    std::size_t covered = 0;
    for (const rattan::StoredTensor& tensor : view.tensors) {
      bool inside = tensor.bytes.data() >= bytes.data() &&
                    tensor.bytes.data() + tensor.bytes.size() <= bytes.data() + bytes.size();
      if (!inside || view.find(tensor.name) != &tensor) std::abort();
      covered += tensor.bytes.size();
    }
    if (covered > size) std::abort();
  } catch (const rattan::InputError&) {
    // A refusal is the other good end.
  }
  return 0;
}
