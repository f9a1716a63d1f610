#include "rattan/cli/run.h"

int main(int argc, char** argv) { return rattan::cli::run(argc, argv); }
