// What stands in models and states that are only timed.
#pragma once
#include "rattan/models/language_model.h"
#include "rattan/ops/fp8.h"

namespace rattan::bench {

void fill_random(nn::State& state);  // standard normal

// Reads random tokens into the first rows of the state, `tokens` each, and copies them to the others: no more than
// `distinct` rows are computed, as many as show any effect that contents could have.
void fill_computed(nn::State& state, models::LanguageModel& model, int64_t tokens, int64_t distinct = 16);

// A model of this configuration with random weights on the device: large matrices are drawn there, at once. Held as for
// inference, or in fp32 as for training.
std::unique_ptr<models::LanguageModel> random_model(const models::LanguageModelConfig& config, at::ScalarType dtype,
                                                    at::Device device, bool trainable, ops::Fp8 fp8 = ops::Fp8::off);

}  // namespace rattan::bench
