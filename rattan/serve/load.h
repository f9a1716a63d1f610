// A load for a running server, and what its clients see.
//
// Conversations of token ids arrive as a Poisson process (or a fixed number is always under way). Each has a prompt of
// a part that all share and a part of its own, and goes on for some turns: the next prompt is all that was said plus
// new tokens. Times count from when a request was due, so that a server that falls behind cannot hide it.
#pragma once
#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace rattan::serve {

struct LoadConfig {
  std::string url = "http://127.0.0.1:8000", key;
  int64_t conversations = 64, turns = 1;
  double rate = 0;              // new conversations a second; 0: `concurrency` are always under way
  int64_t concurrency = 16;     // conversations at the same time, at most
  int64_t shared_tokens = 0;    // that all prompts start with
  int64_t prompt_tokens = 128;  // of the first turn, the shared ones not counted
  int64_t turn_tokens = 32;     // new ones of each further turn
  int64_t answer_tokens = 32;   // exactly so many are made
  double temperature = 1;
  bool stream = true;        // false: answers come whole, and have no time to the first token
  double think_seconds = 0;  // between an answer and the next turn
  double leave = 0;          // share of requests whose client leaves in the middle
  double timeout_seconds = 300;
  uint64_t seed = 0;
};

struct Percentiles {
  double p50 = 0, p90 = 0, p99 = 0, max = 0;
  std::size_t count = 0;
};
Percentiles percentiles(std::vector<double> values);  // the smallest value that a share p of all does not exceed

struct LoadReport {
  double seconds = 0;  // from the first request's start to the last one's end
  int64_t requests = 0, complete = 0, left = 0;
  std::map<std::string, int64_t> failures;  // by kind
  int64_t prompt_tokens = 0, reused_tokens = 0, answer_tokens = 0;
  Percentiles first_token, later_turns_first_token, token, request;  // seconds
};

// InputError for a configuration that cannot be, Error if the server cannot be reached.
LoadReport run_load(const LoadConfig& config);
nlohmann::json to_json(const LoadConfig& config, const LoadReport& report);
std::string to_table(const LoadReport& report);

}  // namespace rattan::serve
