// The smallest program on an installed Rattan: what is loaded, and what this processor can do.
#include <cstdio>

#include "rattan/base/version.h"
#include "rattan/kernels/cpu/isa.h"

int main() {
  std::printf("Rattan %s\ninstruction sets:", rattan::version());
  for (const rattan::kernels::Isa isa : rattan::kernels::supported_isas()) {
    std::printf(" %s", rattan::kernels::name(isa));
  }
  std::printf("\n");
}
