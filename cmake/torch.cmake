# Imports libtorch from a PyTorch wheel by its headers and libraries alone. The wheel's own CMake
# package is not used: with a CUDA build of torch it demands the whole CUDA toolkit.
#
# RATTAN_TORCH is the `torch` folder of the wheel (site-packages/torch). Defines the interface target
# rattan::torch and RATTAN_TORCH_LIB, RATTAN_TORCH_VERSION, RATTAN_TORCH_CUDA.
set(RATTAN_TORCH "" CACHE PATH "The torch folder of an installed or unpacked PyTorch wheel")
if(NOT RATTAN_TORCH AND RATTAN_OPS_ONLY)
  # pip builds with the torch of the Python that it runs in.
  find_package(Python REQUIRED COMPONENTS Interpreter)
  execute_process(COMMAND ${Python_EXECUTABLE} -c
    "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '', end='')"
    OUTPUT_VARIABLE RATTAN_TORCH COMMAND_ERROR_IS_FATAL ANY)
elseif(NOT RATTAN_TORCH)
  file(GLOB torch_in_venv ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
  list(LENGTH torch_in_venv count)
  if(count GREATER 0)
    list(GET torch_in_venv 0 RATTAN_TORCH)
  endif()
endif()
if(NOT EXISTS ${RATTAN_TORCH}/lib/libtorch_cpu.so)
  message(FATAL_ERROR "No libtorch at RATTAN_TORCH='${RATTAN_TORCH}'. Run ./dev build, which installs "
                      "torch into .venv, or pass -DRATTAN_TORCH=<site-packages>/torch.")
endif()
set(RATTAN_TORCH_LIB ${RATTAN_TORCH}/lib)
file(STRINGS ${RATTAN_TORCH}/version.py version_line REGEX "^__version__")
string(REGEX MATCH "[0-9]+\\.[0-9]+[^'\"]*" RATTAN_TORCH_VERSION "${version_line}")
if(EXISTS ${RATTAN_TORCH_LIB}/libtorch_cuda.so)
  set(RATTAN_TORCH_CUDA ON)
else()
  set(RATTAN_TORCH_CUDA OFF)
endif()
message(STATUS "libtorch ${RATTAN_TORCH_VERSION} (CUDA: ${RATTAN_TORCH_CUDA}) at ${RATTAN_TORCH}")

add_library(rattan_torch INTERFACE)
add_library(rattan::torch ALIAS rattan_torch)
target_include_directories(rattan_torch SYSTEM INTERFACE
  $<BUILD_INTERFACE:${RATTAN_TORCH}/include>
  $<BUILD_INTERFACE:${RATTAN_TORCH}/include/torch/csrc/api/include>)
target_compile_definitions(rattan_torch INTERFACE AT_PER_OPERATOR_HEADERS)
target_link_libraries(rattan_torch INTERFACE
  $<BUILD_INTERFACE:${RATTAN_TORCH_LIB}/libtorch_cpu.so>
  $<BUILD_INTERFACE:${RATTAN_TORCH_LIB}/libc10.so>)
# torch brings its own OpenMP runtime; linking any other copy would give two spinning thread pools.
file(GLOB torch_gomp ${RATTAN_TORCH_LIB}/libgomp*.so*)
if(torch_gomp)
  list(GET torch_gomp 0 torch_gomp)
  target_link_libraries(rattan_torch INTERFACE $<BUILD_INTERFACE:${torch_gomp}>)
endif()
if(RATTAN_CUDA)
  # Registration happens in static initializers, which --as-needed would drop.
  target_link_options(rattan_torch INTERFACE -Wl,--no-as-needed -Wl,--allow-shlib-undefined)
  target_compile_definitions(rattan_torch INTERFACE RATTAN_WITH_CUDA C10_CUDA_NO_CMAKE_CONFIGURE_FILE)
  target_include_directories(rattan_torch SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
  if(RATTAN_TORCH_CUDA)
    target_link_libraries(rattan_torch INTERFACE
      $<BUILD_INTERFACE:${RATTAN_TORCH_LIB}/libtorch_cuda.so>
      $<BUILD_INTERFACE:${RATTAN_TORCH_LIB}/libc10_cuda.so>)
  endif()
endif()
