# room(NAME DIR... LINK target...): library ar_NAME from the .cc files of the directories, mains left out.
# Sources are globbed so that a new format, probe or strategy costs its own file and a table row, nothing here.
function(room name)
  cmake_parse_arguments(ROOM "" "" "LINK" ${ARGN})
  set(sources)
  foreach(dir ${ROOM_UNPARSED_ARGUMENTS})
    file(GLOB found CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${dir}/*.cc)
    list(APPEND sources ${found})
  endforeach()
  list(FILTER sources EXCLUDE REGEX "_main\\.cc$")
  if(NOT sources)
    add_library(ar_${name} INTERFACE)
    target_link_libraries(ar_${name} INTERFACE ar_flags ${ROOM_LINK})
    return()
  endif()
  add_library(ar_${name} STATIC EXCLUDE_FROM_ALL ${sources})
  target_link_libraries(ar_${name} PUBLIC ar_flags ${ROOM_LINK})
  # The gate has 25 minutes: what need not be fast compiles in half the time, and the formats of weights, a third of the
  # whole, without one of the two sanitizers (tools/full-check asan has both).
  if(AR_SANITIZE AND NOT AR_SANITIZE_ALL AND name MATCHES "^(os|probes)$")
    target_compile_options(ar_${name} PRIVATE -O0)
  endif()
  if(NOT AR_SANITIZE AND CMAKE_BUILD_TYPE STREQUAL RelWithDebInfo AND name MATCHES "^(study|report|probes)$")
    target_compile_options(ar_${name} PRIVATE -O1)  # these wait for servers
  endif()
  if(name STREQUAL engine)
    gate_precompiles(ar_${name})
  endif()
  if(AR_SANITIZE AND NOT AR_SANITIZE_ALL AND name STREQUAL kernels)
    list(FILTER sources INCLUDE REGEX "kernels/formats/(q|iq|mxfp|f|bf).*\\.cc$")
    set_source_files_properties(${sources} PROPERTIES COMPILE_OPTIONS -fno-sanitize=undefined)
  endif()
endfunction()

# gate_precompiles(TARGET HEADER...): in the gate's sanitizer build the headers that take longest are read once for all
# files of the target. In no other build: it would hide a missing #include.
function(gate_precompiles target)
  if(AR_SANITIZE AND NOT AR_SANITIZE_ALL)
    target_precompile_headers(${target} PRIVATE <functional> <map> <nlohmann/json.hpp> ${ARGN})
  endif()
endfunction()

# program(NAME MAIN LINK target...): an executable in build/<preset>/bin.
function(program name main)
  cmake_parse_arguments(PROGRAM "" "" "LINK" ${ARGN})
  if(NOT EXISTS ${CMAKE_SOURCE_DIR}/${main})
    message(STATUS "${name}: ${main} is missing, not built")
    return()
  endif()
  add_executable(${name} ${main})
  target_link_libraries(${name} PRIVATE ${PROGRAM_LINK})
endfunction()
