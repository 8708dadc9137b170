# The install tree and its CMake package (find_package(thermoe)).
