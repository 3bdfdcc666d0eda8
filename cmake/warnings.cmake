add_library(ar_flags INTERFACE)
target_compile_options(ar_flags INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wno-psabi)
if(AR_WERROR)
  target_compile_options(ar_flags INTERFACE -Werror)
endif()
if(AR_SANITIZE)
  target_compile_options(ar_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=undefined
                                            -fno-omit-frame-pointer)
  target_link_options(ar_flags INTERFACE -fsanitize=address,undefined)
endif()
target_include_directories(ar_flags INTERFACE ${CMAKE_SOURCE_DIR})
# The version a running program reports: the commit where there is one to ask.
execute_process(COMMAND git -C ${CMAKE_SOURCE_DIR} describe --always --dirty --abbrev=9
                OUTPUT_VARIABLE AR_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT AR_COMMIT)
  set(AR_COMMIT unknown)
endif()
