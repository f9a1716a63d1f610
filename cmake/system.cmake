# What comes from the system beside the compiler; ./dev installs it (scripts/setup.sh).
find_package(Threads REQUIRED)
find_package(ZLIB REQUIRED)
foreach(library sentencepiece sentencepiece_train zstd simdjson)
  find_library(RATTAN_LIB_${library} ${library} REQUIRED)
endforeach()
# The libraries behind rattan/data.
set(RATTAN_DATA_LIBS ${RATTAN_LIB_sentencepiece} ${RATTAN_LIB_sentencepiece_train} ${RATTAN_LIB_zstd} ZLIB::ZLIB)
# The library behind rattan/serve's reading of long bodies.
set(RATTAN_SERVE_LIBS ${RATTAN_LIB_simdjson})
# Headers alone: HTTP in rattan/serve; the line editor of rattan/cli, which is loaded when it is wanted.
find_path(RATTAN_BOOST boost/beast/http/parser.hpp REQUIRED)
find_path(RATTAN_EDIT histedit.h REQUIRED)
