#include "rattan/cli/chat_interrupt.h"

#include <atomic>

namespace rattan::cli {
namespace chat_interrupt_file {

std::atomic<bool> received{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

extern "C" void rattan_chat_on_interrupt(int) { received = true; }
extern "C" void rattan_chat_on_resume(int) {}

}  // namespace chat_interrupt_file

// Without SA_RESTART: whoever waits for a line is to be woken, by Ctrl-C and when the program was stopped and goes on,
// since the terminal must then be set up for editing again.
ChatInterrupt::ChatInterrupt() {
  clear();
  struct sigaction action = {};
  action.sa_handler = chat_interrupt_file::rattan_chat_on_interrupt;
  sigaction(SIGINT, &action, &interrupt_);
  action.sa_handler = chat_interrupt_file::rattan_chat_on_resume;
  sigaction(SIGCONT, &action, &resume_);
}

ChatInterrupt::~ChatInterrupt() {
  sigaction(SIGINT, &interrupt_, nullptr);
  sigaction(SIGCONT, &resume_, nullptr);
}

bool ChatInterrupt::requested() { return chat_interrupt_file::received; }
void ChatInterrupt::clear() { chat_interrupt_file::received = false; }

}  // namespace rattan::cli
