# What the Python package (python/rattan) needs of the build: the library with a note of what it was built for. With
# RATTAN_OPS_ONLY, as pip builds it (pyproject.toml), nothing but a compiler and the PyTorch wheel is needed.
find_package(Threads REQUIRED)
if(RATTAN_CUDA)
  set(cuda true)
else()
  set(cuda false)
endif()
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/librattan_ops.json
  CONTENT "{\"version\": \"@PROJECT_VERSION@\", \"torch\": \"@RATTAN_TORCH_VERSION@\", \"cuda\": @cuda@}\n" @ONLY)

if(RATTAN_OPS_ONLY)
  # The wheel of PyTorch brings fmt; the folder holds that alone, since lower floors know no torch header.
  file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/fmt_of_torch)
  file(CREATE_LINK ${RATTAN_TORCH}/include/fmt ${PROJECT_BINARY_DIR}/fmt_of_torch/fmt SYMBOLIC)
  target_include_directories(rattan_options SYSTEM INTERFACE ${PROJECT_BINARY_DIR}/fmt_of_torch)
  set(RATTAN_INSTALL_RPATH "$ORIGIN/../torch/lib")  # in site-packages
  install(FILES ${PROJECT_BINARY_DIR}/librattan_ops.json DESTINATION rattan)
endif()
