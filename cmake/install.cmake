# `cmake --install` gives a tree that can be moved: bin/rattan, lib/librattan*.so, include/rattan and the
# package that find_package(Rattan) reads. libtorch is not copied (it is far larger than everything of ours):
# the run path names the one that this build was made with.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

file(REAL_PATH ${RATTAN_TORCH} RATTAN_TORCH_REAL)
set(RATTAN_INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR};$ORIGIN;${RATTAN_TORCH_REAL}/lib")

install(DIRECTORY ${PROJECT_SOURCE_DIR}/rattan/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/rattan
  FILES_MATCHING PATTERN "*.h" PATTERN "cuda" EXCLUDE)

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/Rattan)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/RattanConfig.cmake.in
  ${PROJECT_BINARY_DIR}/RattanConfig.cmake
  INSTALL_DESTINATION ${package_folder}
  PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/RattanConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/RattanConfig.cmake ${PROJECT_BINARY_DIR}/RattanConfigVersion.cmake
  DESTINATION ${package_folder})
