# kernels/cuda/*.cu by nvcc, as library ar_cuda: machine code for each of AR_CUDA_ARCHITECTURES. The register, shared
# memory and spill report of each kernel is in the build's output.
set(CMAKE_CUDA_ARCHITECTURES OFF)  # the list below, in our own words
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25.1 does not know that nvcc has it
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
find_package(CUDAToolkit 12.9 REQUIRED)  # the first that knows SM 12.1

file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu)
add_library(ar_cuda STATIC ${cuda_sources})
target_include_directories(ar_cuda PRIVATE ${CMAKE_SOURCE_DIR})
target_link_libraries(ar_cuda PRIVATE CUDA::cudart_static)
target_link_libraries(ar_cuda INTERFACE ar_kernels ar_base CUDA::cudart_static)
# 2810: it takes every assignment to a Result for one that is thrown away.
set(cuda_options --expt-relaxed-constexpr -diag-suppress=2810 -Xptxas=-v -Xcompiler=-Wall,-Wextra)
if(AR_WERROR)
  list(APPEND cuda_options -Werror=all-warnings)
endif()
# No kernel asks what it is compiled for: a generation shares one pass of the front end, which takes most of the time.
foreach(arch ${AR_CUDA_ARCHITECTURES})
  if(NOT arch MATCHES "^[0-9]+$")
    message(FATAL_ERROR "AR_CUDA_ARCHITECTURES: '${arch}' is no number; write 90, not sm_90 or 90a")
  endif()
  math(EXPR generation "${arch} / 10 * 10")
  list(APPEND cuda_options "SHELL:-gencode arch=compute_${generation},code=sm_${arch}")
endforeach()
list(APPEND cuda_options "SHELL:-gencode arch=compute_80,code=compute_80")  # what is newer than all of these compiles it itself
target_compile_options(ar_cuda PRIVATE ${cuda_options})

# One binary: the engine has a GPU's backend beside the CPU's.
target_link_libraries(ar_engine PUBLIC $<LINK_ONLY:ar_cuda>)  # its files see none of CUDA
set_source_files_properties(src/engine/gpu.cc PROPERTIES COMPILE_DEFINITIONS AR_CUDA)
