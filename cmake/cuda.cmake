# The CUDA language and toolkit. Machine code for sm_80 (which sm_86 and sm_89 run too) and for Hopper with its own
# instructions (sm_90a), and PTX of sm_80 for the GPUs that come after. The runtime is linked as a shared library,
# libcudart.so.13, the one that torch's wheel brings and has loaded already.
set(CMAKE_CUDA_ARCHITECTURES "80;90a-real" CACHE STRING "GPU architectures to compile for")
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  # CMake 3.25 does not know that nvcc knows C++20.
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
find_package(CUDAToolkit 12.0 REQUIRED)

# rattan_cuda_objects(target source...): an object library of .cu and .cpp files that know no torch header.
function(rattan_cuda_objects target)
  add_library(${target} OBJECT ${ARGN})
  target_link_libraries(${target} PRIVATE rattan_options CUDA::cudart)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>)
  if(RATTAN_WERROR)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--Werror=all-warnings>)
  endif()
  set_target_properties(${target} PROPERTIES UNITY_BUILD OFF)
endfunction()
