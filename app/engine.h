// What every subcommand that runs a model needs, opened in the right order.
#pragma once

#include <memory>
#include <string>

#include "charge.h"
#include "thermoe/tokenizer.h"
#include "thermoe/transformer.h"

namespace CLI {
class App;
}

namespace thermoe::app {

struct EngineOptions {
  std::string model;       // directory; empty: the shipped nano model
  std::string cost_shape;  // name; empty: the first known
  std::string profile;     // file; empty: the shipped H100 profile
  int threads = 0;         // 0: one per hardware thread

  void add_to(CLI::App& command);
};

// A loaded model, its tokenizer, and the cost model that its steps are charged to.
class Engine {
 public:
  // Throws IoError, InvalidArgument or ProfileMiss, each naming the file and the remedy.
  explicit Engine(const EngineOptions& options);

  ThreadPool pool;
  Checkpoint checkpoint;
  Tokenizer tokenizer;
  KernelCostModel cost;
  Charge charge;
  Transformer model;
};

}  // namespace thermoe::app
