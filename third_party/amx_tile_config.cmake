# See amx_tile_config.h.
function(dmr_name_whole_tile_config)
  foreach(target IN LISTS ARGN)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      target_compile_options(${target} PRIVATE
        "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-include ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/amx_tile_config.h>")
    endif()
  endforeach()
endfunction()
