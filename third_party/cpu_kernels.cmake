# How ggml's CPU kernels are compiled, beyond what ggml says itself.
#
# - The header of GCC for AMX is put right: see amx_tile_config.h.
# - No AVX512-FP16, which only a build for this very machine would have (GGML_NATIVE): ggml's vectors of half precision
#   are then 128 numbers long, so whatever is shorter, such as an attention head of 64, is computed one number at a time
#   and converted without the processor's help. A token after 2,048 others took four times as long. Without it, 64
#   numbers at a time are converted in hardware and summed in single precision.
include(CheckCCompilerFlag)

function(dmr_compile_cpu_kernels)
  check_c_compiler_flag(-mno-avx512fp16 DMR_KNOWS_AVX512FP16)
  foreach(target IN LISTS ARGN)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      target_compile_options(${target} PRIVATE
        "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-include ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/amx_tile_config.h>")
    endif()
    if(DMR_KNOWS_AVX512FP16)
      target_compile_options(${target} PRIVATE -mno-avx512fp16)
    endif()
  endforeach()
endfunction()
