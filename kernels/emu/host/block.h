// One block of threads at a time: a fiber per thread, run warp by warp in a seeded order until everybody waits.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>
#include <vector>

#include "half.h"

namespace emu {

constexpr unsigned WARP = 32;
constexpr size_t STACK_BYTES = 64 << 10;
/// `cp.async` and `ldmatrix` move 16 bytes, which must lie on a boundary of 16.
constexpr size_t ROW_BYTES = 16;

struct Index3 {
  unsigned x, y, z;
};

/// What went wrong, first complaint wins; the launch stops at the next switch.
struct Complaint {
  std::atomic<bool> is_set{false};
  std::mutex mutex;
  std::string text;

  void set(std::string what);
};

enum class State : uint8_t { Ready, AtBarrier, AtWarp, Done };

/// An asynchronous copy that nobody waited for yet; from nowhere: zeros.
struct Copy {
  void* to;
  const void* from;
};

struct Fiber {
  void* stack = nullptr;
  State state = State::Done;
  /// Where it waits: the line of the barrier or of the warp operation, and which operation.
  int line = 0;
  const char* what = "";
  /// What the other lanes read while the whole warp is in one operation.
  union {
    uint32_t word;
    const uint16_t* row;
    float fragment[12];
  } shown;
  std::vector<Copy> copies;
  std::vector<size_t> groups;  // where in `copies` each committed group ends
};

struct Kernel {
  const char* variant;
  const char* name;
  size_t args_bytes;
  void (*body)(const void* args);
};

struct Shape {
  Index3 grid;
  unsigned threads;
  size_t shared_bytes;
};

class Block {
 public:
  Block(const Shape& shape, const Kernel& kernel, const void* args, uint64_t seed, Complaint& complaint);
  ~Block();
  Block(const Block&) = delete;

  /// Runs the block at this place of the grid.
  void run(Index3 at);

  // For the running fiber:
  unsigned thread() const { return running_; }
  unsigned lane() const { return running_ % WARP; }
  Fiber& self() { return fibers_[running_]; }
  Fiber& peer(unsigned lane) { return fibers_[running_ / WARP * WARP + lane]; }
  void wait(State state, const char* what, int line);
  /// Complains and never goes on.
  [[noreturn]] void fail(const char* what, int line);
  /// Whether these bytes are of the block's dynamic shared memory, on a boundary of 16.
  void check_row(const void* row, const char* what, int line);

  unsigned char* shared() { return shared_; }
  const Shape& shape() const { return shape_; }
  Index3 at() const { return at_; }

 private:
  static void enter();
  void resume(unsigned thread);
  bool run_warp(unsigned warp);
  bool open_barrier();
  void complain(const char* what, int line);
  uint64_t draw();

  Shape shape_;
  const Kernel& kernel_;
  const void* args_;
  uint64_t chance_;
  Complaint& complaint_;
  Index3 at_{};
  unsigned running_ = 0;
  void* scheduler_ = nullptr;
  std::vector<Fiber> fibers_;
  unsigned char* stacks_;
  unsigned char* shared_;
};

/// The block whose fiber this host thread runs.
extern thread_local Block* block;

/// A kernel makes itself known when its object file is loaded.
struct Registered {
  explicit Registered(const Kernel& kernel);
};

}  // namespace emu
