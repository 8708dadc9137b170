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

# Nothing of these shows in the installed headers; a program that links the static library needs all
# but the header-only ones (cmake/thermoeConfig.cmake.in finds them again).
function(thermoe_private_dependencies target)
  target_link_libraries(${target} PRIVATE
    $<BUILD_INTERFACE:nlohmann_json::nlohmann_json> $<BUILD_INTERFACE:Eigen3::Eigen> fmt::fmt ZLIB::ZLIB Threads::Threads
    PkgConfig::HWY PkgConfig::PCRE2 PkgConfig::UTF8PROC PkgConfig::OPENBLAS ${CMAKE_DL_LIBS})
endfunction()
