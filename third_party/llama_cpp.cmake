# Brings llama.cpp and adds its libraries: llama, llama-common, mtmd, ggml. Nothing of its tools is built.
#
# LLAMA_CPP_DIR (CMake or environment variable): a checkout to build against instead of the pinned release.

if(NOT LLAMA_CPP_DIR AND DEFINED ENV{LLAMA_CPP_DIR})
  set(LLAMA_CPP_DIR "$ENV{LLAMA_CPP_DIR}")
endif()

file(STRINGS "${CMAKE_CURRENT_LIST_DIR}/llama_cpp.txt" DMR_LLAMA_CPP_COMMIT REGEX "^# llama.cpp commit: ")
string(REGEX REPLACE "^# llama.cpp commit: " "" DMR_LLAMA_CPP_COMMIT "${DMR_LLAMA_CPP_COMMIT}")

if(LLAMA_CPP_DIR)
  set(llama_cpp_source "${LLAMA_CPP_DIR}")
  execute_process(
    COMMAND git -C "${LLAMA_CPP_DIR}" rev-parse --short=9 HEAD
    OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
  set(DMR_LLAMA_CPP_COMMIT "unknown")
  if(status EQUAL 0 AND EXISTS "${LLAMA_CPP_DIR}/.git")
    set(DMR_LLAMA_CPP_COMMIT "${commit}")
  endif()
else()
  execute_process(
    COMMAND "${Python_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/llama_cpp.py" "${DMR_THIRD_PARTY_DIR}"
    OUTPUT_VARIABLE llama_cpp_source OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "llama.cpp could not be brought: see the lines above.")
  endif()
endif()
message(STATUS "llama.cpp: ${llama_cpp_source} (${DMR_LLAMA_CPP_COMMIT})")

# Without these two, llama.cpp would ask git, and get our commit.
set(LLAMA_BUILD_NUMBER 0)
set(LLAMA_BUILD_COMMIT "${DMR_LLAMA_CPP_COMMIT}")

foreach(part COMMON MTMD)
  set(LLAMA_BUILD_${part} ON CACHE BOOL "" FORCE)
endforeach()
foreach(part TOOLS SERVER EXAMPLES TESTS APP UI)
  set(LLAMA_BUILD_${part} OFF CACHE BOOL "" FORCE)
endforeach()
foreach(part USE_PREBUILT_UI OPENSSL SUBPROCESS LLGUIDANCE)
  set(LLAMA_${part} OFF CACHE BOOL "" FORCE)
endforeach()
set(GGML_CCACHE ON CACHE BOOL "use ccache when it is there")
# ggml's own thread pool instead of OpenMP: no libgomp to ship, and its idle threads do not spin against other engines.
set(GGML_OPENMP OFF CACHE BOOL "use OpenMP")

if(DMR_PORTABLE)
  set(BUILD_SHARED_LIBS ON CACHE BOOL "" FORCE)
  set(GGML_NATIVE OFF CACHE BOOL "" FORCE)
  set(GGML_BACKEND_DL ON CACHE BOOL "" FORCE)
  set(GGML_CPU_ALL_VARIANTS ON CACHE BOOL "" FORCE)
else()
  set(BUILD_SHARED_LIBS OFF CACHE BOOL "" FORCE)
  set(GGML_NATIVE ON CACHE BOOL "" FORCE)
  set(GGML_BACKEND_DL OFF CACHE BOOL "" FORCE)
  set(GGML_CPU_ALL_VARIANTS OFF CACHE BOOL "" FORCE)
endif()

add_subdirectory("${llama_cpp_source}" "${CMAKE_BINARY_DIR}/llama.cpp" EXCLUDE_FROM_ALL)

dmr_all_targets(llama_cpp_targets "${llama_cpp_source}")

# A static library is linked piece by piece, so what nobody calls need not be compiled: the options of llama.cpp's tools,
# and what downloads for them. It would be a tenth of the build. Another checkout may need other pieces.
if(NOT BUILD_SHARED_LIBS AND NOT LLAMA_CPP_DIR)
  set(unused "${llama_cpp_source}/vendor/cpp-httplib/httplib.cpp")
  foreach(name arg console debug download hf-cache imatrix-loader llguidance preset)
    list(APPEND unused "${llama_cpp_source}/common/${name}.cpp")
  endforeach()
  set_source_files_properties(${unused} TARGET_DIRECTORY llama-common cpp-httplib PROPERTIES HEADER_FILE_ONLY ON)
  set_target_properties(cpp-httplib PROPERTIES LINKER_LANGUAGE CXX)
endif()

include("${CMAKE_CURRENT_LIST_DIR}/cpu_kernels.cmake")
set(cpu_targets ${llama_cpp_targets})
list(FILTER cpu_targets INCLUDE REGEX "^ggml-cpu")
dmr_compile_cpu_kernels(${cpu_targets})

# Our own kernels are compiled as ggml's kernels are, into each library of them; see csrc/cpu/kernels.h.
list(FILTER cpu_targets EXCLUDE REGEX "-feats$")
file(GLOB cpu_sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/csrc/cpu/*.cpp")
foreach(target IN LISTS cpu_targets)
  target_sources(${target} PRIVATE ${cpu_sources})
endforeach()

# A wheel holds no symbolic links, so the libraries carry no version in their names.
if(DMR_PORTABLE)
  set(DMR_SHIPPED_LIBRARIES "")
  foreach(target IN LISTS llama_cpp_targets)
    get_target_property(type ${target} TYPE)
    if(type STREQUAL "SHARED_LIBRARY" OR type STREQUAL "MODULE_LIBRARY")
      set_property(TARGET ${target} PROPERTY VERSION)
      set_property(TARGET ${target} PROPERTY SOVERSION)
      set_target_properties(${target} PROPERTIES INSTALL_RPATH "$ORIGIN")
      list(APPEND DMR_SHIPPED_LIBRARIES ${target})
    endif()
  endforeach()
endif()

# llama.cpp's converter of safetensors models: Python sources, which dmr.store.conversion runs in a process of its own.
install(FILES "${llama_cpp_source}/convert_hf_to_gguf.py" DESTINATION dmr/converter COMPONENT dmr)
install(DIRECTORY "${llama_cpp_source}/conversion" DESTINATION dmr/converter COMPONENT dmr FILES_MATCHING PATTERN "*.py")
install(DIRECTORY "${llama_cpp_source}/gguf-py/gguf" DESTINATION dmr/converter/gguf-py COMPONENT dmr
  FILES_MATCHING PATTERN "*.py")
