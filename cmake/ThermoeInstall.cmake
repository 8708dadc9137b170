# The install tree and its CMake package (find_package(thermoe)):
#   include/thermoe/   lib/libthermoe.a   lib/cmake/thermoe/   bin/thermoe   share/thermoe/data, models/
if(NOT THERMOE_INSTALL)
  return()
endif()
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS thermoe EXPORT thermoeTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/thermoe DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
if(TARGET thermoe_cli)
  install(TARGETS thermoe_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
# What the program reads, in the checkout's own layout.
install(DIRECTORY data DESTINATION ${CMAKE_INSTALL_DATADIR}/thermoe)
install(DIRECTORY models/nano DESTINATION ${CMAKE_INSTALL_DATADIR}/thermoe/models)
install(FILES LICENSE NOTICE DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/thermoe)
install(EXPORT thermoeTargets NAMESPACE thermoe:: DESTINATION ${package_dir})
configure_package_config_file(cmake/thermoeConfig.cmake.in
  "${PROJECT_BINARY_DIR}/thermoeConfig.cmake" INSTALL_DESTINATION ${package_dir}
  PATH_VARS CMAKE_INSTALL_DATADIR)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/thermoeConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)  # before 1.0 a minor version may break
install(FILES "${PROJECT_BINARY_DIR}/thermoeConfig.cmake"
              "${PROJECT_BINARY_DIR}/thermoeConfigVersion.cmake" DESTINATION ${package_dir})
