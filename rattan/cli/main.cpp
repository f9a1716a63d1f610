// The program only loads librattan and calls it. Linked against it, a libtorch that has moved would end the
// program before its first line, with a message that tells nobody what to do.
#include <dlfcn.h>
#include <sys/stat.h>

#include <cstdio>

namespace rattan::main_file {

// RATTAN_TORCH_LIB and RATTAN_TORCH_VERSION come from rattan/CMakeLists.txt.
int explain(const char* reason) {
  struct stat status {};
  const bool there = stat(RATTAN_TORCH_LIB "/libtorch_cpu.so", &status) == 0;
  std::fprintf(stderr,
               "rattan: cannot load its libraries: %s\n"
               "This rattan was built with torch " RATTAN_TORCH_VERSION " in " RATTAN_TORCH_LIB
               ",\n%s.\n"
               "What helps:\n"
               "- put torch back there: pip install torch==" RATTAN_TORCH_VERSION
               " in that environment;\n"
               "- or name the same version elsewhere: LD_LIBRARY_PATH=<site-packages>/torch/lib rattan ...;\n"
               "- or build rattan again: ./dev build in its source.\n",
               reason,
               there ? "which is still there: a library beside it or beside rattan is missing or damaged"
                     : "where it is no more");
  return 1;
}

}  // namespace rattan::main_file

int main(int argc, char** argv) {
  void* library = dlopen("librattan.so", RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) return rattan::main_file::explain(dlerror());
  auto run = reinterpret_cast<int (*)(int, char**)>(dlsym(library, "rattan_run"));
  if (run == nullptr) return rattan::main_file::explain(dlerror());
  return run(argc, argv);
}
