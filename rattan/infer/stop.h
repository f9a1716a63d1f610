// Stop strings over a stream of bytes, wherever the borders between its pieces fall.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace rattan::infer {

class StopMatcher {
 public:
  // InputError for an empty stop string.
  explicit StopMatcher(std::vector<std::string> stops);

  // The bytes that certainly stand before any stop string. What may still become one is held back, so no part
  // of a match ever gets out. Of several matches the one that ends first counts, then the longest.
  std::string push(std::string_view bytes);
  // The end of the stream: what was held back was not a match after all.
  std::string finish();

  bool stopped() const { return !matched_.empty(); }
  const std::string& matched() const { return matched_; }  // the stop string that was met, or ""

 private:
  std::vector<std::string> stops_;
  std::string held_, matched_;
};

}  // namespace rattan::infer
