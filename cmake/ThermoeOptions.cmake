# Build options, the default build type, warnings and sanitizers.
option(THERMOE_BUILD_APP "Build the command-line program" ${PROJECT_IS_TOP_LEVEL})
option(THERMOE_BUILD_TESTS "Build the tests" ${PROJECT_IS_TOP_LEVEL})
option(THERMOE_UNITY_TESTS "Compile many test files at a time, whatever the library does" OFF)
option(THERMOE_BUILD_BENCH "Build the benchmarks" OFF)
option(THERMOE_BUILD_FUZZERS "Build the libFuzzer targets (needs clang)" OFF)
option(THERMOE_PYTHON "Build the Python module (needs nanobind)" OFF)
option(THERMOE_STATIC_DEPENDENCIES "Link libraries statically where there are archives of them" OFF)
option(THERMOE_INSTALL "Define the install rules" ${PROJECT_IS_TOP_LEVEL})
option(THERMOE_WERROR "Treat warnings as errors" OFF)
set(THERMOE_CUDA "AUTO" CACHE STRING "Compile the CUDA code: ON, OFF, or AUTO (where nvcc is found)")
set(THERMOE_TRITON "AUTO" CACHE STRING
    "Compile the Triton kernels: ON, OFF, or AUTO (with CUDA, where this version of Triton is found)")
set(THERMOE_TRITON_ARCHS "80,90" CACHE STRING "Compute capabilities times ten to compile them for")
set(THERMOE_SANITIZE "" CACHE STRING "Sanitizers, as for -fsanitize= (address,undefined or thread)")

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
# Where CMAKE_UNITY_BUILD is on, so many files share a compilation: half the time.
if(NOT DEFINED CMAKE_UNITY_BUILD_BATCH_SIZE)
  set(CMAKE_UNITY_BUILD_BATCH_SIZE 12)
endif()

if(THERMOE_SANITIZE)
  # One instruction set beside the baseline: instrumented, each takes minutes to compile.
  add_compile_definitions("HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_SSE4|HWY_AVX3|HWY_AVX3_DL)")
  add_compile_options(-fsanitize=${THERMOE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${THERMOE_SANITIZE})
endif()

function(thermoe_warnings target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion>)
  # g++ 12 and 13 see overlapping copies in std::string where there are none (GCC bug 105651).
  target_compile_options(${target} PRIVATE
    $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-Wno-restrict>)
  # In a unity build g++ takes each file's anonymous namespace for a header's, and for the files'
  # after it; a build of single files still warns of shadows.
  if(CMAKE_UNITY_BUILD)
    target_compile_options(${target} PRIVATE
      $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-Wno-subobject-linkage -Wno-shadow>)
  endif()
  if(THERMOE_WERROR)
    target_compile_options(${target} PRIVATE
      $<$<COMPILE_LANGUAGE:CXX>:-Werror> $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
  endif()
endfunction()

# What is not the library takes longer to optimise than it runs: half the time at -O1, a third
# unoptimised, where sanitizers instrument it.
function(thermoe_compile_quickly target)
  target_compile_options(${target} PRIVATE $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CONFIG:Release>>:-O1>)
endfunction()
function(thermoe_sanitize_quickly target)
  if(THERMOE_SANITIZE)
    target_compile_options(${target} PRIVATE -O0)
  endif()
endfunction()

set(THERMOE_HAVE_CUDA OFF)
if(NOT THERMOE_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      # A100; H100 with wgmma; PTX without it for what follows.
      set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 90-virtual)
    endif()
    enable_language(CUDA)
    set(THERMOE_HAVE_CUDA ON)
  elseif(THERMOE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "THERMOE_CUDA is ON but no CUDA compiler was found; put nvcc on PATH or set "
                        "CMAKE_CUDA_COMPILER")
  else()
    message(STATUS "thermoe: without CUDA: nvcc not found (CPU only; put nvcc on PATH to add it)")
  endif()
endif()

# Triton's compiler needs no GPU. Its version is fixed: a launch has arguments that it hides.
set(THERMOE_HAVE_TRITON OFF)
set(triton_wanted 3.6.0)
if(THERMOE_TRITON STREQUAL "ON" OR (THERMOE_TRITON STREQUAL "AUTO" AND THERMOE_HAVE_CUDA))
  if(SKBUILD AND NOT THERMOE_TRITON_PYTHON)
    set(THERMOE_TRITON_PYTHON ${Python_EXECUTABLE})  # pip's, which the build backend gave Triton
  endif()
  if(NOT THERMOE_TRITON_PYTHON)
    find_program(THERMOE_TRITON_PYTHON NAMES python3 HINTS ${PROJECT_SOURCE_DIR}/.venv/bin
                 DOC "The Python that has Triton")
  endif()
  set(triton_found "no Python")
  if(THERMOE_TRITON_PYTHON)
    execute_process(COMMAND ${THERMOE_TRITON_PYTHON} -c "import triton; print(triton.__version__)"
                    OUTPUT_VARIABLE triton_found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  if(triton_found STREQUAL triton_wanted)
    set(THERMOE_HAVE_TRITON ON)
  else()
    set(triton_lacks "triton==${triton_wanted} not found for ${THERMOE_TRITON_PYTHON} (found: ${triton_found}; "
                     "python3 -m venv .venv && .venv/bin/pip install triton==${triton_wanted} adds it)")
    list(JOIN triton_lacks "" triton_lacks)
    if(THERMOE_TRITON STREQUAL "ON")
      message(FATAL_ERROR "THERMOE_TRITON is ON but ${triton_lacks}")
    endif()
    message(STATUS "thermoe: without Triton kernels: ${triton_lacks}")
  endif()
endif()
