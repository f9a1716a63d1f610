// The names of what a study can measure.
//   loss, perplexity, bits_per_byte (language_modeling), loss, accuracy (recall): of the last validation
//   loss@N:            mean loss of tokens with more than N/2, at most N tokens before them, N a power of 2 (or the
//                      window's length), in the windows of [evaluate]
//   tokens_per_second: median over steps; the only one that depends on the machine
//   lr:                the learning rate, chosen or given
//   parameters, non_embedding_parameters, training_flops (a token), state_bytes, state_bytes@N (of a sequence at the
//   trained context, or of N tokens): of the configuration
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "rattan/eval/study/study_file.h"

namespace rattan::study {

// InputError with `place` in front for a name that this study cannot measure.
void require_metric(const std::string& name, const Study& study, const std::string& place);

// What follows from the configuration alone; nothing for other metrics. `lr` counts as measured.
std::optional<double> static_metric(const std::string& name, const Arm& arm);

// N of "loss@N" or "state_bytes@N".
std::optional<int64_t> at_length(const std::string& name, const std::string& metric);

std::string show(const std::string& metric, double value);  // "1.2345", "12,345", "25.2M", "1.2 MB"
std::string heading(const std::string& metric);             // "loss at 4,096", "state bytes at 8,192"
std::string grouped(int64_t n);                             // 12,345

}  // namespace rattan::study
