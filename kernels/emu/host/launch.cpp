// The way in: a launch by name, as the driver's, with the blocks spread over threads of the host.
#include <algorithm>
#include <cstring>
#include <thread>

#include "block.h"

namespace emu {
namespace {

std::vector<Kernel>& kernels() {
  static std::vector<Kernel> known;
  return known;
}

const Kernel* find(const char* variant, const char* name) {
  for (const Kernel& kernel : kernels()) {
    if (std::strcmp(kernel.variant, variant) == 0 && std::strcmp(kernel.name, name) == 0) return &kernel;
  }
  return nullptr;
}

/// Hands out the blocks of a grid in an order drawn from the seed: no block may count on another.
class Grid {
 public:
  Grid(Index3 grid, uint64_t seed) : grid_(grid), count_(uint64_t(grid.x) * grid.y * grid.z), first_(seed % count_) {}

  bool next(Index3& at) {
    const uint64_t number = taken_.fetch_add(1);
    if (number >= count_) return false;
    const uint64_t index = (number + first_) % count_;
    at = {unsigned(index % grid_.x), unsigned(index / grid_.x % grid_.y), unsigned(index / grid_.x / grid_.y)};
    return true;
  }

  uint64_t count() const { return count_; }

 private:
  Index3 grid_;
  uint64_t count_, first_;
  std::atomic<uint64_t> taken_{0};
};

void work(const Shape& shape, const Kernel& kernel, const void* args, uint64_t seed, Grid& grid, Complaint& complaint) {
  Block own(shape, kernel, args, seed, complaint);
  Index3 at;
  while (!complaint.is_set && grid.next(at)) own.run(at);
}

}  // namespace

Registered::Registered(const Kernel& kernel) { kernels().push_back(kernel); }

}  // namespace emu

/// What the emulation is asked to run; the Rust side has the twin.
struct ShoalEmuLaunch {
  const char* variant;
  const char* kernel;
  uint32_t grid[3];
  uint32_t threads;
  uint64_t shared_bytes;
  const void* args;
  uint64_t args_bytes;
  uint64_t seed;
  uint32_t host_threads;
};

/// Bytes of the kernel's one argument; 0: there is no such kernel.
extern "C" uint64_t shoal_emu_args_bytes(const char* variant, const char* name) {
  const emu::Kernel* kernel = emu::find(variant, name);
  return kernel == nullptr ? 0 : kernel->args_bytes;
}

/// 0: done. Otherwise `text` says what was wrong, cut to `text_bytes` with its terminating zero.
extern "C" int shoal_emu_launch(const ShoalEmuLaunch* launch, char* text, uint64_t text_bytes) {
  using namespace emu;
  Complaint complaint;
  const Kernel* kernel = find(launch->variant, launch->kernel);
  const uint32_t* grid = launch->grid;
  if (kernel == nullptr) {
    complaint.set(std::string("no kernel ") + launch->variant + "::" + launch->kernel);
  } else if (kernel->args_bytes != launch->args_bytes) {
    complaint.set(std::string(launch->kernel) + ": the arguments have another size");
  } else if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[1] > 65535 || grid[2] > 65535) {
    complaint.set(std::string(launch->kernel) + ": the grid is empty or too large");
  } else if (launch->threads == 0 || launch->threads > 1024 || launch->threads % WARP != 0) {
    complaint.set(std::string(launch->kernel) + ": a block has 32 to 1024 threads, in whole warps");
  } else {
    const Shape shape{{grid[0], grid[1], grid[2]}, launch->threads, launch->shared_bytes};
    Grid blocks(shape.grid, launch->seed);
    const uint64_t hands = std::max<uint64_t>(1, std::min<uint64_t>(launch->host_threads, blocks.count()));
    std::vector<std::thread> others;
    const auto run = [&](uint64_t hand) { work(shape, *kernel, launch->args, launch->seed + hand, blocks, complaint); };
    for (uint64_t hand = 1; hand < hands; hand++) others.emplace_back(run, hand);
    run(0);
    for (std::thread& other : others) other.join();
  }
  if (!complaint.is_set) return 0;
  std::snprintf(text, text_bytes, "%s", complaint.text.c_str());
  return 1;
}
