// What Triton's compiler made of the kernels of this folder: cubins, and what a launch has to know
// of each. The build compiles them (compile.py) and this program carries them; a folder that the
// same script wrote can take their place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace thermoe::triton {

// A cubin, and the launch of its one kernel.
struct CompiledKernel {
  std::string name;         // of the specialisation: "gate_up_int8_m16"
  std::string entry;        // the cubin's symbol
  std::string parameters;   // of the launch, a letter each: p pointer, i int32, l int64
  int hidden_pointers = 0;  // that follow them: Triton's own, null where it needs no scratch memory
  int arch = 0;             // 80, 90: compute capability times ten
  int warps = 0;
  int shared_bytes = 0;                                // dynamic
  std::vector<std::pair<std::string, int>> constants;  // block sizes and the like, by name
  std::string cubin;

  // Throws InvalidArgument where the kernel has no such constant.
  int constant(std::string_view constant_name) const;
};

struct KernelSet {
  std::string triton_version;  // which compiled them; empty: there are none
  std::string sources_crc32;   // of this folder's Python files, hexadecimal
  std::string problem;         // one line with the remedy where there are none
  std::vector<CompiledKernel> kernels;
};

// The version that the launches below are written for (its hidden arguments).
inline constexpr const char* kTritonVersion = "3.6.0";
inline constexpr int kHiddenPointers = 2;  // of that version: global and profile scratch memory

// What this build carries; in builds without Triton no kernels, and `problem` says what to do.
const KernelSet& built_in_kernels();

// What compile.py wrote to a folder. Throws IoError naming the file where the manifest or a cubin
// is missing, truncated, changed since (CRC-32), or of another version of Triton.
KernelSet read_kernels(const std::filesystem::path& folder);

// The kernels to use: those of the folder that the environment's THERMOE_TRITON_DIR names, else the
// built-in ones. Read once. Throws as read_kernels().
const KernelSet& kernels_in_use();

// The kernel of that name for a device of compute capability `device_arch` / 10: of the highest
// compute capability that it can run (cubins run on their own major version, from their minor one
// on). Throws InvalidArgument where there are none at all, none for the device, none of that name,
// or where its parameters are not `parameters` followed by what this version of Triton hides (a
// cubin of other sources), saying which.
const CompiledKernel& find_kernel(const KernelSet& set, std::string_view name, int device_arch,
                                  std::string_view parameters);

}  // namespace thermoe::triton
