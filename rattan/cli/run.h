// The whole command line as a function, so that tests can call it.
#pragma once

namespace rattan::cli {

// Exit codes: 0 done, 1 failed while working, 2 wrong use or wrong input, 130 interrupted (state saved).
int run(int argc, char** argv);

}  // namespace rattan::cli
