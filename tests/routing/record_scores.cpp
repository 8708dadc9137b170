// Real router scores, for tests/python/test_routing_real_scores.py.
//   routing_record_scores MODEL_DIR TEXT BATCH CONTEXT STRIDE OUT.npy
// Runs BATCH consecutive windows of CONTEXT tokens through the model in lockstep, routed by top-k,
// and writes the score matrices that the policy was given at every STRIDE-th position of every MoE
// layer: float32 [N, BATCH, experts], by position, then layer.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "thermoe/tokenizer.h"
#include "thermoe/transformer.h"

namespace {

// Plain top-k that keeps what it saw while `recording`.
class RecordingPolicy : public thermoe::RoutingPolicy {
 public:
  bool recording = false;
  std::vector<float> values;
  int64_t matrices = 0;

  const char* name() const override { return "recording"; }
  void route(const thermoe::RoutingRequest& request, thermoe::RoutingPlan& plan) override {
    top_k_.route(request, plan);
    if (!recording) return;
    ++matrices;
    for (int64_t t = 0; t < request.scores.rows; ++t) {
      const auto row = request.scores.row_span(t);
      values.insert(values.end(), row.begin(), row.end());
    }
  }

 private:
  thermoe::TopKPolicy top_k_;
};

struct Options {
  std::string model, text, out;
  int batch = 0, context = 0, stride = 0;
};

std::vector<int32_t> tokens_of(const Options& options) {
  std::ifstream file(options.text, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + options.text);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  std::vector<int32_t> tokens = thermoe::Tokenizer(options.model).encode(text);
  if (static_cast<int64_t>(tokens.size()) < int64_t{options.batch} * options.context)
    throw std::runtime_error(options.text + ": too short for BATCH windows of CONTEXT tokens");
  return tokens;
}

void record(const Options& options, RecordingPolicy& policy) {
  const std::vector<int32_t> text = tokens_of(options);
  const thermoe::Checkpoint checkpoint(options.model);
  thermoe::ThreadPool pool;
  thermoe::Transformer model(checkpoint, pool);
  thermoe::KvCache cache(checkpoint.config(), options.batch, options.context);
  const size_t batch = static_cast<size_t>(options.batch);
  std::vector<int32_t> tokens(batch), sequences(batch), positions(batch);
  const std::vector<thermoe::RowGroup> groups = {{0, options.batch}};
  for (int position = 0; position < options.context; ++position) {
    for (size_t s = 0; s < batch; ++s) {
      tokens[s] = text[s * static_cast<size_t>(options.context) + static_cast<size_t>(position)];
      sequences[s] = static_cast<int32_t>(s);
      positions[s] = position;
    }
    policy.recording = position % options.stride == options.stride - 1;
    model.forward({tokens, sequences, positions, groups}, {.policy = &policy, .prices = {}}, cache,
                  {}, {});
  }
}

void write_npy(const std::string& path, const RecordingPolicy& policy, int batch) {
  const int64_t experts = static_cast<int64_t>(policy.values.size()) / policy.matrices / batch;
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" +
                       std::to_string(policy.matrices) + ", " + std::to_string(batch) + ", " +
                       std::to_string(experts) + "), }";
  header.resize(118 - 1, ' ');  // magic, version and length take 10 bytes: 128 in all
  header += '\n';
  const auto length = static_cast<uint16_t>(header.size());
  std::ofstream out(path, std::ios::binary);
  out.write("\x93NUMPY\x01\x00", 8);
  out.write(reinterpret_cast<const char*>(&length), sizeof(length));
  out << header;
  out.write(reinterpret_cast<const char*>(policy.values.data()),
            static_cast<std::streamsize>(policy.values.size() * sizeof(float)));
  if (!out.flush()) throw std::runtime_error("cannot write " + path);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) {
    std::fputs("usage: routing_record_scores MODEL_DIR TEXT BATCH CONTEXT STRIDE OUT.npy\n",
               stderr);
    return 2;
  }
  try {
    const Options options{.model = argv[1],
                          .text = argv[2],
                          .out = argv[6],
                          .batch = std::stoi(argv[3]),
                          .context = std::stoi(argv[4]),
                          .stride = std::stoi(argv[5])};
    RecordingPolicy policy;
    record(options, policy);
    write_npy(options.out, policy, options.batch);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
  return 0;
}
