// The smallest program on an installed Rattan: continues a text with a model folder.
//   generate MODEL "In the beginning"
#include <cstdio>
#include <exception>

#include "rattan/base/error.h"
#include "rattan/base/version.h"
#include "rattan/infer/generator.h"
#include "rattan/models/load.h"

int main(int argc, char** argv) try {
  std::printf("Rattan %s\n", rattan::version());
  if (argc < 3) {
    std::printf("usage: generate MODEL PROMPT\n");
    return 0;
  }
  const rattan::models::LoadedModel loaded = rattan::models::load_language_model(argv[1]);
  if (!loaded.tokenizer) throw rattan::InputError("this model has no tokenizer");

  rattan::infer::Request request;
  request.prompt = loaded.tokenizer->encode(argv[2]);
  request.max_tokens = 100;
  request.sampling.temperature = 0.8;
  request.end_token = loaded.tokenizer->eos();

  rattan::infer::Generator generator(*loaded.model, *loaded.tokenizer);
  generator.run({request}, [](const rattan::infer::TokenEvent& event) {
    std::printf("%s", event.text.c_str());
    std::fflush(stdout);
  });
  std::printf("\n%.0f tokens/s\n", generator.timing().decode_tokens / generator.timing().decode_seconds);
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
