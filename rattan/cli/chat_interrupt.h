// Ctrl-C as a wish of the person at the terminal, while an object of this class lives.
#pragma once
#include <csignal>

namespace rattan::cli {

class ChatInterrupt {
 public:
  ChatInterrupt();
  ~ChatInterrupt();  // puts the former handlers back
  ChatInterrupt(const ChatInterrupt&) = delete;
  ChatInterrupt& operator=(const ChatInterrupt&) = delete;

  static bool requested();
  static void clear();

 private:
  struct sigaction interrupt_, resume_;
};

}  // namespace rattan::cli
