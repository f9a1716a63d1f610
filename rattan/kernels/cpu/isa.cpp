#include "rattan/kernels/cpu/isa.h"

#include <atomic>
#include <cstdlib>

#include "rattan/base/error.h"

namespace rattan::kernels {
namespace isa_file {

constexpr Isa all[] = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::avx512bf16};

bool supported(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  switch (isa) {
    case Isa::scalar:
      return true;
    case Isa::avx2:
      return avx2;
    case Isa::avx512:
      return avx512;
    case Isa::avx512bf16:
      return avx512 && __builtin_cpu_supports("avx512bf16");
  }
  return false;
#else
  return isa == Isa::scalar;
#endif
}

std::string names(const std::vector<Isa>& isas) {
  std::string text;
  for (Isa isa : isas) text += (text.empty() ? "" : ", ") + std::string(name(isa));
  return text;
}

Isa first_choice() {
  const char* wanted = std::getenv("RATTAN_ISA");
  if (!wanted || !*wanted) return supported_isas().back();
  for (Isa isa : all) {
    if (std::string(wanted) != name(isa)) continue;
    require(supported(isa), "RATTAN_ISA={}: this processor lacks it; it has {}", wanted, names(supported_isas()));
    return isa;
  }
  fail_input("RATTAN_ISA={}: expected one of {}", wanted, names(supported_isas()));
}

std::atomic<int> active{-1};

}  // namespace isa_file

const char* name(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return "scalar";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512bf16:
      return "avx512bf16";
  }
  return "unknown";
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> result;
  for (Isa isa : isa_file::all) {
    if (isa_file::supported(isa)) result.push_back(isa);
  }
  return result;
}

Isa active_isa() {
  int isa = isa_file::active.load(std::memory_order_relaxed);
  if (isa < 0) {
    isa = static_cast<int>(isa_file::first_choice());
    isa_file::active.store(isa, std::memory_order_relaxed);
  }
  return static_cast<Isa>(isa);
}

void use_isa(Isa isa) {
  require(isa_file::supported(isa), "instruction set {} is not one this processor has ({})", name(isa),
          isa_file::names(supported_isas()));
  isa_file::active.store(static_cast<int>(isa), std::memory_order_relaxed);
}

}  // namespace rattan::kernels
