// thermoe's C interface: what an engine in C, Rust or C++ links. C11 and C++;
// examples/engine shows it at work.
//
// Errors    Every function that can fail returns a status; thermoe_last_error() then says in one
// line
//           what is wrong and what to do, in the words of the C++ exception. No C++ exception
//           leaves a function, and outputs other than handles are unspecified after a failure.
// Handles   Opaque, made by an _open or _create, ended by the matching _close, which takes NULL. A
//           handle that could not be made is NULL.
// Structs   Those with a struct_size are versioned: zero all of it, set struct_size to
//           sizeof(the struct), then fields. Zero means the default that a field names. A caller
//           compiled against an older header gives a smaller struct_size: fields that it lacks take
//           their defaults. A newer caller's fields that this library doesn't know must be zero.
//           A struct_size that is no version's is refused.
// Memory    Arrays are the caller's, read or written during the call only (on a stream: until the
//           stream is past it). Strings that are returned live as long as their handle.
// Threads   A monitor, a cost model and a layout may be used by several threads at once; of any
//           other handle, one at a time. thermoe_last_error() is each thread's own.
#pragma once

// NOLINTBEGIN(readability-identifier-naming,modernize-use-using,modernize-deprecated-headers): it
// is C
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t thermoe_status;
enum {
  THERMOE_OK = 0,
  THERMOE_INVALID_ARGUMENT = 1,  // a value outside the contract: a null pointer, a size, a NaN
  THERMOE_IO_ERROR = 2,          // a file is missing, unreadable, or not what it claims to be
  THERMOE_CUDA_ERROR = 3,        // a CUDA call failed
  THERMOE_NVML_ERROR = 4,        // NVIDIA's management library is absent or refused
  THERMOE_PROFILE_MISS = 5,      // no profile covers what was asked
  THERMOE_NO_CUDA = 6,           // this build has no CUDA code
  THERMOE_OUT_OF_MEMORY = 7,
  THERMOE_INTERNAL_ERROR = 8  // a defect of ours
};

// "0.1.0". Of the library, not of the header.
const char* thermoe_version(void);
// "invalid argument", "input or output", ...; "unknown status" for any other number.
const char* thermoe_status_name(thermoe_status status);
// Of this thread's last call that failed; "" before. Valid until its next call that fails.
const char* thermoe_last_error(void);
// 1 where this build has the CUDA code, 0 where not.
int32_t thermoe_has_cuda(void);

// --- Telemetry ----------------------------------------------------------------------------------

typedef struct thermoe_monitor thermoe_monitor;

typedef struct thermoe_monitor_options {
  size_t struct_size;
  // "nvml:0": a GPU by NVML's index. "replay:FILE": a recorded trace, in virtual time. "twin:FILE":
  // a simulated GPU of that power profile (data/profiles/h100-sxm-power.json), in virtual time.
  const char* source;
  double rate_hz;   // of the polling thread, 0.1 to 1000; 0: 20
  double period_s;  // of a replay: virtual time from poll to poll; 0: 0.05
} thermoe_monitor_options;

// One sample. A reading that is missing is NaN. Zero is a reading: to give a state to a function,
// begin with thermoe_hardware_state_missing().
typedef struct thermoe_hardware_state {
  size_t struct_size;
  double time_s;    // on the source's clock
  int32_t present;  // 0: nothing was ever read, or the device is lost
  int32_t throttle_reasons_known;
  uint64_t throttle_reasons;  // NVML's bits
  double power_instant_w, power_average_w, power_limit_w;
  double energy_mj;  // counter; may be reset
  double sm_clock_mhz, sm_clock_max_mhz, mem_clock_mhz;
  double temperature_c, memory_temperature_c, temperature_limit_c;
  double sm_active_frac, tensor_active_frac, dram_active_frac;
} thermoe_hardware_state;

// What happens to a simulated GPU from now on.
typedef struct thermoe_twin_environment {
  size_t struct_size;
  double power_cap_w;             // 0: the board's own limit
  double sink_resistance_factor;  // of the heat sink's thermal resistance; 0: 1
  int32_t inlet_given;            // 1: inlet_c counts; 0: as recorded
  int32_t sensors_lost;           // 1: no reading at all
  double inlet_c;                 // of the air
} thermoe_twin_environment;

typedef struct thermoe_cost_estimate {
  size_t struct_size;
  double latency_us;
  double energy_mj;         // of the board, idle power included
  double clock_bound_frac;  // part of latency_us that is proportional to 1 / SM clock
  double sm_active_frac;    // part of latency_us in which SMs work
  double bytes, flops;      // of HBM traffic; executed
  double uncertainty_frac;  // of latency_us, one standard deviation
  int32_t bound_by;         // 0 memory, 1 compute, 2 overhead
  int32_t cost_source;      // 0 measured, 1 interpolated, 2 transferred, 3 roofline
} thermoe_cost_estimate;

// NVML_ERROR where there is no driver or device; IO_ERROR naming a file that is none of its kind.
thermoe_status thermoe_monitor_open(const thermoe_monitor_options* options, thermoe_monitor** out);
void thermoe_monitor_close(thermoe_monitor* monitor);
// Begins and ends polling by a thread of the monitor's own.
thermoe_status thermoe_monitor_start(thermoe_monitor* monitor);
thermoe_status thermoe_monitor_stop(thermoe_monitor* monitor);
// Samples once, publishes and returns it. INVALID_ARGUMENT while the thread runs.
thermoe_status thermoe_monitor_poll(thermoe_monitor* monitor, thermoe_hardware_state* out);
// The newest published state. Neither locks nor allocates.
thermoe_status thermoe_monitor_state(thermoe_monitor* monitor, thermoe_hardware_state* out);
// "nvml:0", "replay:NAME", "twin"; NULL for NULL.
const char* thermoe_monitor_source(const thermoe_monitor* monitor);
// Of a twin: runs `work` (a cost model's estimate) and idles until period_s after its start.
thermoe_status thermoe_monitor_advance_twin(thermoe_monitor* monitor,
                                            const thermoe_cost_estimate* work, double period_s);
thermoe_status thermoe_monitor_set_twin(thermoe_monitor* monitor,
                                        const thermoe_twin_environment* environment);
// Present, at time 0, every reading missing. INVALID_ARGUMENT on a struct_size that is no
// version's.
thermoe_status thermoe_hardware_state_missing(thermoe_hardware_state* out);

// --- Costs --------------------------------------------------------------------------------------

typedef struct thermoe_cost_model thermoe_cost_model;

typedef struct thermoe_cost_model_options {
  size_t struct_size;
  const char* profile;  // file: data/profiles/h100-sxm.json
  const char* shape;    // a published model's by name; NULL: by the five sizes below
  const char* dtype;    // of the experts' weights; NULL: "bf16"
  const char* kernel;   // as the profile names it; NULL: that type's best-measured one
  int64_t hidden_size, expert_inter_size;
  int32_t experts, top_k, layers;
  int32_t reserved;  // 0
} thermoe_cost_model_options;

// latency = c0_us + open_us * distinct + slope_us * assignments; energy alike. All >= 0.
typedef struct thermoe_cost_surrogate {
  size_t struct_size;
  double c0_us, open_us, slope_us;
  double c0_mj, open_mj, slope_mj;
  double fit_error_frac, envelope_gap_frac;
} thermoe_cost_surrogate;

// IO_ERROR naming file and field; PROFILE_MISS, listing what the profile has. Up to a second.
thermoe_status thermoe_cost_model_open(const thermoe_cost_model_options* options,
                                       thermoe_cost_model** out);
void thermoe_cost_model_close(thermoe_cost_model* model);
// The experts of one MoE layer that reads `distinct_experts` for `assignments` token-expert pairs
// of `tokens` tokens (fractions are allowed). `state` NULL: at the clock of the measurement.
thermoe_status thermoe_cost_model_layer(const thermoe_cost_model* model, double tokens,
                                        double distinct_experts, double assignments,
                                        const thermoe_hardware_state* state,
                                        thermoe_cost_estimate* out);
// What prices are made of: a fit at `tokens` tokens.
thermoe_status thermoe_cost_model_surrogate(const thermoe_cost_model* model, double tokens,
                                            const thermoe_hardware_state* state,
                                            thermoe_cost_surrogate* out);

// --- Layouts: in which precisions and on which devices experts can be had ----------------------

typedef struct thermoe_layout thermoe_layout;

typedef struct thermoe_layout_options {
  size_t struct_size;
  int32_t experts;                    // E, 1 to 65536
  int32_t devices;                    // 0: 1
  int32_t variants;                   // V, at least 1; the first is the checkpoint's own
  int32_t instances;                  // 0: every expert in every variant on device 0
  const char* const* variant_names;   // [V] "bf16", "int8", "int4", ...
  const float* variant_error_frac;    // [V] relative error of an output; NULL: 0
  const float* variant_read_frac;     // [V] of the bytes that bf16 reads; NULL: 1
  const float* variant_compute_frac;  // [V] of the time of bf16's arithmetic; NULL: 1
  const int32_t* expert;              // [instances], by expert, then variant, then device
  const int32_t* variant;             // [instances]; NULL: 0
  const int32_t* device;              // [instances]; NULL: 0
  const int32_t* capacity;            // [I] most tokens of a batch; NULL: no limit
} thermoe_layout_options;

thermoe_status thermoe_layout_create(const thermoe_layout_options* options, thermoe_layout** out);
void thermoe_layout_close(thermoe_layout* layout);
// I; 0 for NULL.
int32_t thermoe_layout_instances(const thermoe_layout* layout);

// --- The slow loop ------------------------------------------------------------------------------

typedef struct thermoe_governor thermoe_governor;

// 0: no such limit.
typedef struct thermoe_governor_limits {
  size_t struct_size;
  double power_cap_w, temperature_cap_c, layer_latency_target_us;
  double max_open_price;  // ceiling of an expert's opening price: bounds the loss; 0: 0.25
} thermoe_governor_limits;

// Prices of resources, in utility.
typedef struct thermoe_multipliers {
  size_t struct_size;
  double per_us, per_mj;
} thermoe_multipliers;

thermoe_status thermoe_governor_create(const thermoe_governor_limits* limits,
                                       const thermoe_cost_surrogate* surrogate,
                                       thermoe_governor** out);
void thermoe_governor_close(thermoe_governor* governor);
thermoe_status thermoe_governor_set_limits(thermoe_governor* governor,
                                           const thermoe_governor_limits* limits);
// One tick, dt_s after the last. `layer_latency_us`: the observed mean of an MoE layer since then;
// NaN: not observed. `out` may be NULL.
thermoe_status thermoe_governor_update(thermoe_governor* governor,
                                       const thermoe_hardware_state* state, double layer_latency_us,
                                       double dt_s, thermoe_multipliers* out);
// Prices of `count` instances: of the layout's, or where it is NULL of as many experts. `open` and
// `slope` are [count]; either may be NULL.
thermoe_status thermoe_governor_prices(const thermoe_governor* governor,
                                       const thermoe_cost_surrogate* surrogate,
                                       const thermoe_layout* layout, int32_t count, float* open,
                                       float* slope);

// --- Routing on the CPU -------------------------------------------------------------------------

typedef struct thermoe_router thermoe_router;

typedef struct thermoe_router_options {
  size_t struct_size;
  int32_t experts;               // E, 1 to 65536
  int32_t k;                     // slots of a token, 1 to E
  int32_t min_k;                 // a token may use so few; 0: the policy's own
  int32_t keep_probabilities;    // 1: weights are the scores themselves, not shares of the top-k's
  const thermoe_layout* layout;  // copied; NULL: every expert once
  const char* policy;            // as of `thermoe route --policy`; NULL: "adaptive"
} thermoe_router_options;

enum { THERMOE_F32 = 0, THERMOE_BF16 = 1 };
// What makes gate probabilities of the given numbers; none: they are probabilities already.
enum { THERMOE_GATE_NONE = 0, THERMOE_GATE_SOFTMAX = 1, THERMOE_GATE_SIGMOID = 2 };
enum { THERMOE_GOAL_PRICES = 0, THERMOE_GOAL_LEAST_COST = 1, THERMOE_GOAL_BEST_QUALITY = 2 };

// T tokens of one layer. Prices (finite, >= 0) are of the I instances, or of the E experts without
// a layout; NULL: zero.
typedef struct thermoe_batch {
  size_t struct_size;
  const void* scores;         // [T, E]; what the gate makes of them is finite and >= 0
  int64_t tokens;             // T, 1 to 2^20
  int64_t row_stride;         // elements from row to row, at least E or at most -E; 0: E
  const float* open;          // [I] for reading an instance's weights
  const float* slope;         // [I] for each token sent there
  const float* device_open;   // [I] the same, of which the dearest device's sum counts
  const float* device_slope;  // [I]
  const float* device_base;   // [devices]
  double goal_limit;          // as RoutingGoal's
  int32_t goal;               // THERMOE_GOAL_*
  int32_t layer;              // for policies that keep state per layer
  int32_t score_type;         // THERMOE_F32, THERMOE_BF16
  int32_t gate;               // THERMOE_GATE_*
} thermoe_batch;

// Where the plan goes. Any array may be NULL.
typedef struct thermoe_plan {
  size_t struct_size;
  int32_t* ids;        // [T, slots] by falling score; unused slots stand last and are -1
  int32_t* instances;  // [T, slots]
  float* weights;      // [T, slots]
  uint8_t* changed;    // [T] 1 where the set of experts is not the token's top-k
  int32_t* offsets;    // [I + 1] pairs of instance i: packed[offsets[i]] .. packed[offsets[i+1]-1]
  int32_t* packed;     // [T * slots] each token * slots + slot; the first offsets[I] are written
  int32_t slots;       // 0: k. More where a policy may give a token more experts than k
  int32_t reserved;    // 0
} thermoe_plan;

typedef struct thermoe_report {
  size_t struct_size;
  int32_t infeasible;        // 1: no plan keeps the limits; this one violates them least
  int32_t distinct_experts;  // that at least one token uses
  int32_t distinct_instances, top_k_distinct_experts, changed_tokens;
  int32_t used_pairs;  // offsets[I]
  double objective, bound, gap_frac;
  double utility, cost, limit_excess, gate_mass_frac;
} thermoe_report;

thermoe_status thermoe_router_create(const thermoe_router_options* options, thermoe_router** out);
void thermoe_router_close(thermoe_router* router);
// `report` may be NULL. For batches of one shape nothing is allocated once the router has grown to
// them, the policy "adaptive" or "topk".
thermoe_status thermoe_router_plan(thermoe_router* router, const thermoe_batch* batch,
                                   const thermoe_plan* plan, thermoe_report* report);
// E, k and I; 0 for NULL.
int32_t thermoe_router_experts(const thermoe_router* router);
int32_t thermoe_router_k(const thermoe_router* router);
int32_t thermoe_router_instances(const thermoe_router* router);

// --- Routing on a GPU ---------------------------------------------------------------------------

enum { THERMOE_MODE_TOP_K = 0, THERMOE_MODE_PER_TOKEN = 1, THERMOE_MODE_BATCH = 2 };

// Every pointer is to device memory and read when the kernel runs: a captured graph sees new scores
// and prices. Limits: 16384 tokens (THERMOE_MODE_BATCH: 256), 512 experts, 1024 instances, k 16.
typedef struct thermoe_device_batch {
  size_t struct_size;
  const void* scores;  // [T, row_stride] of score_type: what `gate` makes probabilities of
  int64_t row_stride;  // elements, at least E; 0: E
  int32_t tokens, experts, k;
  int32_t score_type;          // THERMOE_F32, THERMOE_BF16
  int32_t gate;                // THERMOE_GATE_*
  int32_t keep_probabilities;  // as a router's
  int32_t mode;                // THERMOE_MODE_*
  int32_t instances;           // I; 0: E, every expert once
  const float* bias;           // [E] added where experts are selected; NULL: none
  const float* open;           // [I] finite, >= 0; NULL: zero. Read by THERMOE_MODE_BATCH alone
  const float* slope;          // [I] likewise
  const float* marginal;       // [I] added to slope; read by THERMOE_MODE_PER_TOKEN alone
  const int32_t* first;        // [E + 1] expert e has instances first[e] .. first[e+1]-1; NULL: one
  const int32_t* expert;       // [I], where there is `first`
  const double* kept_best;     // [E] of the utility, what errors leave of it; NULL: all
  const double* kept_instance;           // [I] likewise
  const float* utility_scale;            // [E]; NULL: 1
  double utility_power;                  // 1, 1.5 or 2; 0: 2
  int32_t* ids;                          // [T, k] the outputs, as thermoe_plan's with k slots
  int32_t* plan_instances;               // [T, k]
  float* weights;                        // [T, k]
  uint8_t* changed;                      // [T]
  int32_t* offsets;                      // [I + 1]
  int32_t* packed;                       // [T * k]
  struct thermoe_device_report* report;  // one, aligned to 8
  void* workspace;         // thermoe_route_workspace_bytes() of it, not shared by launches
  size_t workspace_bytes;  // that may run at once; NULL and 0 where none are needed
  int32_t kept_uneven;     // 1 where kept_best differs from expert to expert
  int32_t reserved;        // 0
} thermoe_device_batch;

// Written on the device; its size never changes.
typedef struct thermoe_device_report {
  int32_t bad_token;   // the first with a score that is NaN, infinite or negative; -1: none
  int32_t bad_expert;  // its first bad score; -1: all its scores are zero
  int32_t changed_tokens, distinct_experts, distinct_instances;
  int32_t closings, rounds;  // of the search
  int32_t reserved;
  double utility, cost;
} thermoe_device_report;

// Enqueues the launch on `stream` (a cudaStream_t; NULL: the default one). No allocation, no
// synchronisation; may be captured in a graph. NO_CUDA where this build lacks it; INVALID_ARGUMENT
// where a limit is broken, an output is NULL or the workspace too small.
thermoe_status thermoe_route_on_stream(const thermoe_device_batch* batch, void* stream);
thermoe_status thermoe_route_workspace_bytes(const thermoe_device_batch* batch, size_t* bytes);

// --- Quantised experts on the CPU ---------------------------------------------------------------

typedef struct thermoe_experts thermoe_experts;

// SwiGLU experts of one shape, y = down(silu(gate(x)) * up(x)), f32, row-major and contiguous.
typedef struct thermoe_experts_options {
  size_t struct_size;
  const float* gate;  // [E, intermediate, hidden]
  const float* up;    // [E, intermediate, hidden]
  const float* down;  // [E, hidden, intermediate]
  int64_t hidden_size, inter_size;
  int32_t experts;
  int32_t threads;  // of the CPU; 0: one per hardware thread
} thermoe_experts_options;

typedef struct thermoe_experts_batch {
  size_t struct_size;
  const float* x;        // [T, hidden] finite
  const int32_t* ids;    // [T, slots] experts; -1: unused
  const float* weights;  // [T, slots]
  float* out;            // [T, hidden] overwritten; may be x
  int64_t tokens;        // T, 1 to 2^20
  int64_t x_stride;      // elements from row to row; 0: hidden
  int64_t out_stride;    // likewise
  const uint8_t* int4;   // [T, slots] 1 where the pair runs in int4, else int8; NULL: int8 all
  int32_t slots;
  int32_t reserved;  // 0
} thermoe_experts_batch;

// Quantises to nested planes: int8, of which the first plane alone is int4. Copies; the weights may
// go. INVALID_ARGUMENT on weights that are not finite.
thermoe_status thermoe_experts_create(const thermoe_experts_options* options,
                                      thermoe_experts** out);
void thermoe_experts_close(thermoe_experts* experts);
// out[t] = the sum over slots of weight * expert(x[t]), in the order of the slots.
thermoe_status thermoe_experts_forward(thermoe_experts* experts,
                                       const thermoe_experts_batch* batch);
// Bytes of one expert that its products read, in int8 and in int4. Either may be NULL.
thermoe_status thermoe_experts_bytes(const thermoe_experts* experts, size_t* int8, size_t* int4);
// [E] relative squared error of each expert's output on random inputs, in int8 and in int4: a
// layout's error_frac. Either may be NULL.
thermoe_status thermoe_experts_errors(const thermoe_experts* experts, float* int8, float* int4);

#ifdef __cplusplus
}  // extern "C"
#endif
// NOLINTEND(readability-identifier-naming,modernize-use-using,modernize-deprecated-headers)
