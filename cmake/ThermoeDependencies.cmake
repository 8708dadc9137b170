# Debian's packages, by name; nothing is fetched. scripts/install-dependencies installs them.
find_package(Threads REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(fmt 9 REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(HWY REQUIRED IMPORTED_TARGET libhwy)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(OPENBLAS REQUIRED IMPORTED_TARGET openblas)
find_package(ZLIB REQUIRED)
find_package(Eigen3 3.4 REQUIRED NO_MODULE)

# THERMOE_STATIC_DEPENDENCIES (wheels): archives where Debian has them, fmt as headers. Debian has
# Highway as a shared library alone: python/CMakeLists.txt puts it into the wheel.
set(THERMOE_FMT fmt::fmt)
if(THERMOE_STATIC_DEPENDENCIES)
  set(THERMOE_FMT fmt::fmt-header-only)
  find_library(THERMOE_ZLIB_ARCHIVE libz.a REQUIRED)
  set_target_properties(ZLIB::ZLIB PROPERTIES IMPORTED_LOCATION ${THERMOE_ZLIB_ARCHIVE}
                                              IMPORTED_LOCATION_RELEASE ${THERMOE_ZLIB_ARCHIVE})
  foreach(prefix PCRE2 UTF8PROC OPENBLAS)
    string(REPLACE ";" " " libraries "${${prefix}_LIBRARIES}")
    find_library(THERMOE_${prefix}_ARCHIVE lib${libraries}.a HINTS ${${prefix}_LIBRARY_DIRS} REQUIRED)
    set_target_properties(PkgConfig::${prefix} PROPERTIES INTERFACE_LINK_LIBRARIES
                                                          ${THERMOE_${prefix}_ARCHIVE})
  endforeach()
  add_compile_definitions(PCRE2_STATIC UTF8PROC_STATIC)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-ffunction-sections> $<$<COMPILE_LANGUAGE:CXX>:-fdata-sections>)
  add_link_options(-Wl,--gc-sections)
endif()

# Nothing of these shows in the installed headers; a program that links the static library needs all
# but the header-only ones (cmake/thermoeConfig.cmake.in finds them again).
function(thermoe_private_dependencies target)
  target_link_libraries(${target} PRIVATE
    $<BUILD_INTERFACE:nlohmann_json::nlohmann_json> $<BUILD_INTERFACE:Eigen3::Eigen> ${THERMOE_FMT} ZLIB::ZLIB Threads::Threads
    PkgConfig::HWY PkgConfig::PCRE2 PkgConfig::UTF8PROC PkgConfig::OPENBLAS ${CMAKE_DL_LIBS})
endfunction()
