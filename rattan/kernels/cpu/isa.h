// Instruction sets the CPU kernels are built for, and the one in use.
#pragma once
#include <string>
#include <vector>

namespace rattan::kernels {

enum class Isa { scalar, avx2, avx512, avx512bf16 };

const char* name(Isa isa);
std::vector<Isa> supported_isas();  // by this processor, ascending
Isa active_isa();                   // the best supported one, or what use_isa or RATTAN_ISA=<name> asked for
void use_isa(Isa isa);              // InputError if the processor lacks it; for tests and benchmarks

}  // namespace rattan::kernels
