# What is installed for programs that link the library: find_package(gemma3) and pkg-config gemma3,
# both relative to where they lie, so that the tree may be moved and a wheel can bring it.
include(CMakePackageConfigHelpers)
set(package lib/cmake/gemma3)

install(DIRECTORY include/ DESTINATION include FILES_MATCHING PATTERN "*.h")
install(TARGETS gemma3 EXPORT gemma3-shared LIBRARY DESTINATION lib)
install(TARGETS gemma3_static EXPORT gemma3-static ARCHIVE DESTINATION lib)
install(EXPORT gemma3-shared NAMESPACE gemma3:: DESTINATION ${package})
install(EXPORT gemma3-static NAMESPACE gemma3:: DESTINATION ${package})

configure_package_config_file(cmake/gemma3-config.cmake.in cmake/gemma3-config.cmake
  INSTALL_DESTINATION ${package} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/cmake/gemma3-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/cmake/gemma3-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/cmake/gemma3-config-version.cmake DESTINATION ${package})

if(GEMMA3_CRYPTO)
  set(GEMMA3_PC_CRYPTO "-lcrypto ")
endif()
if(GEMMA3_PICTURE_LIBRARIES)
  set(GEMMA3_PC_PICTURES "-lpng -ljpeg ")
endif()
configure_file(cmake/gemma3.pc.in cmake/gemma3.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/cmake/gemma3.pc DESTINATION lib/pkgconfig)

# A wheel that runs elsewhere carries these libraries with it, and so what their licences ask for.
option(GEMMA3_NOTICES "Install the copyright notices of what a wheel carries" OFF)
if(GEMMA3_NOTICES)
  foreach(library libjpeg62-turbo-dev libpng-dev libssl-dev nlohmann-json3-dev zlib1g-dev)
    install(FILES /usr/share/doc/${library}/copyright DESTINATION share/doc/${library} OPTIONAL)
  endforeach()
endif()
