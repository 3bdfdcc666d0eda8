add_library(ar_flags INTERFACE)
target_compile_options(ar_flags INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wno-psabi)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 sees overlaps in std::string's operator+ that are not there (its bug 105651).
  target_compile_options(ar_flags INTERFACE -Wno-restrict)
endif()
if(AR_WERROR)
  target_compile_options(ar_flags INTERFACE -Werror)
endif()
if(AR_SANITIZE)
  target_compile_options(ar_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=undefined
                                            -fno-omit-frame-pointer)
  target_link_options(ar_flags INTERFACE -fsanitize=address,undefined)
  if(NOT AR_SANITIZE_ALL)  # minutes less to compile; the address sanitizer sees what most of these three see
    target_compile_definitions(ar_flags INTERFACE AR_GATE_TARGETS)
    target_compile_options(ar_flags INTERFACE -fno-sanitize=null,vptr,object-size)
  endif()
endif()
if(AR_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL Clang)
    message(FATAL_ERROR "AR_FUZZ needs clang: configure with CC=clang CXX=clang++")
  endif()
  target_compile_options(ar_flags INTERFACE -fsanitize=fuzzer-no-link,address,undefined
                                            -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_link_options(ar_flags INTERFACE -fsanitize=address,undefined)
  target_compile_definitions(ar_flags INTERFACE HWY_COMPILE_ONLY_STATIC)  # one instruction set: builds in half the time
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")  # a real one: the emulated one takes clang minutes a file
    target_compile_options(ar_flags INTERFACE -msse4.2 -mpclmul -maes -Wno-pragma-clang-attribute)
  endif()
endif()
target_include_directories(ar_flags INTERFACE ${CMAKE_SOURCE_DIR})
