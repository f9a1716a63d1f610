# CPU kernels are compiled once per instruction set from the same sources (rattan/kernels/cpu/*.isa.cpp)
# and chosen at run time. RATTAN_ISA names the namespace of one such build.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  set(RATTAN_ISAS scalar avx2 avx512 avx512bf16)
else()
  set(RATTAN_ISAS scalar)
endif()
set(RATTAN_ISA_FLAGS_scalar "")
set(RATTAN_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(RATTAN_ISA_FLAGS_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512)
set(RATTAN_ISA_FLAGS_avx512bf16 ${RATTAN_ISA_FLAGS_avx512} -mavx512bf16)

# rattan_isa_objects(out_var source...): one object library per instruction set; out_var lists their objects.
function(rattan_isa_objects out_var)
  set(objects)
  if(ARGN)
    foreach(isa IN LISTS RATTAN_ISAS)
      add_library(rattan_kernels_${isa} OBJECT ${ARGN})
      target_link_libraries(rattan_kernels_${isa} PRIVATE rattan_options)
      target_compile_options(rattan_kernels_${isa} PRIVATE
        ${RATTAN_ISA_FLAGS_${isa}} -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math)
      if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        # g++ 12 warns about its own AVX-512 intrinsics (GCC bug 105593).
        target_compile_options(rattan_kernels_${isa} PRIVATE -Wno-uninitialized -Wno-maybe-uninitialized)
      endif()
      target_compile_definitions(rattan_kernels_${isa} PRIVATE RATTAN_ISA=${isa} RATTAN_ISA_${isa}=1)
      # Each kernel is one large template translation unit already.
      set_target_properties(rattan_kernels_${isa} PROPERTIES UNITY_BUILD OFF)
      list(APPEND objects $<TARGET_OBJECTS:rattan_kernels_${isa}>)
    endforeach()
  endif()
  set(${out_var} ${objects} PARENT_SCOPE)
endfunction()
