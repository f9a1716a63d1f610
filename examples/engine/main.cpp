// Many texts at once, each shown when it is done; a second round that reads only what is new.
//   engine MODEL "In the beginning" "And it came to pass" ...
#include <cstdio>
#include <exception>
#include <latch>

#include "rattan/base/error.h"
#include "rattan/infer/engine.h"
#include "rattan/models/load.h"

int main(int argc, char** argv) try {
  if (argc < 3) {
    std::printf("usage: engine MODEL PROMPT...\n");
    return 0;
  }
  const rattan::models::LoadedModel loaded = rattan::models::load_language_model(argv[1]);
  if (!loaded.tokenizer) throw rattan::InputError("this model has no tokenizer");
  rattan::infer::Engine engine(*loaded.model, *loaded.tokenizer, {.max_context = 1024});

  for (const char* ending : {"", " And"}) {
    std::latch unfinished(argc - 2);
    for (int i = 2; i < argc; ++i) {
      rattan::infer::EngineRequest request;
      request.prompt = loaded.tokenizer->encode(std::string(argv[i]) + ending);
      request.max_tokens = 64;
      request.sampling.temperature = 0.8;
      request.end_tokens = {loaded.tokenizer->eos()};
      engine.submit(request,
                    [&, text = std::string(argv[i]) + ending](const rattan::infer::EngineEvent& event) mutable {
                      text += event.text;  // on the engine's thread
                      if (event.kind != rattan::infer::EngineEvent::Kind::finished) return;
                      std::printf("%s\n\n", text.c_str());
                      unfinished.count_down();
                    });
    }
    unfinished.wait();
  }
  const rattan::infer::EngineStats stats = engine.stats();
  std::printf("%llu prompt tokens read, %llu reused\n", static_cast<unsigned long long>(stats.prompt_tokens),
              static_cast<unsigned long long>(stats.reused_tokens));
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
