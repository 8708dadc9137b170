# Installs the build into a fresh folder, moves that away from where it was installed, builds
# the examples against it and checks what they print.
file(REMOVE_RECURSE ${WORK_DIR})
set(tree ${WORK_DIR}/moved)

function(step)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "failed (${status}): ${ARGN}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

step(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK_DIR}/installed)
file(RENAME ${WORK_DIR}/installed ${tree})
set(flags)
if(SANITIZE)
  set(flags -DCMAKE_CXX_FLAGS=-fsanitize=${SANITIZE})
endif()
function(example name)
  step(${CMAKE_COMMAND} -S ${SOURCE_DIR}/examples/${name} -B ${WORK_DIR}/build-${name} -G ${GENERATOR}
       -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_PREFIX_PATH=${tree} -DCMAKE_BUILD_TYPE=Release ${flags})
  step(${CMAKE_COMMAND} --build ${WORK_DIR}/build-${name})
  step(${WORK_DIR}/build-${name}/${name})
  set(output "${output}" PARENT_SCOPE)
endfunction()

example(embed)
foreach(expected "thermoe ${VERSION}, opening price 0: 3 experts, gate mass kept 1, gap 0"
                 "opening price 0.1: 2 experts"
                 "token 3: experts 0, 3" "token 3: experts 0, 1")
  string(FIND "${output}" "${expected}" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "embed did not print \"${expected}\" but:\n${output}")
  endif()
endforeach()
example(route)
if(NOT output MATCHES "experts, not [0-9]+; gate mass kept 0\\.[0-9]+; objective [0-9.]+, no plan above" OR
   NOT output MATCHES "expert [0-9]+ in int8: [0-9]+ tokens")
  message(FATAL_ERROR "route did not print its plan and certificate but:\n${output}")
endif()

# The tree holds what the documentation promises, and nothing in it names the build machine.
file(GLOB profiles ${tree}/share/thermoe/data/profiles/*)
if(NOT profiles)
  message(FATAL_ERROR "no profiles under share/thermoe/data/profiles")
endif()
if(EXISTS ${BUILD_DIR}/thermoe)
  step(${tree}/bin/thermoe doctor)  # from its own share/thermoe, wherever the tree was moved
  if(NOT output MATCHES "h100-sxm-power" OR NOT output MATCHES "nano")
    message(FATAL_ERROR "the installed program does not find its profiles and model:\n${output}")
  endif()
endif()
file(GLOB_RECURSE package ${tree}/lib*/cmake/thermoe/*.cmake ${tree}/include/*.h)
foreach(file ${package})
  file(READ ${file} text)
  foreach(place ${SOURCE_DIR} ${BUILD_DIR})
    string(FIND "${text}" "${place}/" at)
    if(NOT at EQUAL -1)
      message(FATAL_ERROR "${file} names ${place}")
    endif()
  endforeach()
endforeach()
