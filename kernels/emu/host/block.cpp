#include "block.h"

#include <cstdlib>
#include <cstring>
#include <numeric>

#include "fiber.h"

namespace emu {

thread_local Block* block = nullptr;

void Complaint::set(std::string what) {
  std::lock_guard<std::mutex> held(mutex);
  if (!is_set) text = std::move(what);
  is_set = true;
}

namespace {

unsigned char* aligned(size_t bytes) {
  constexpr size_t PAGE = 4096;
  void* memory = std::aligned_alloc(PAGE, (bytes / PAGE + 1) * PAGE);
  if (memory == nullptr) std::abort();
  return static_cast<unsigned char*>(memory);
}

}  // namespace

Block::Block(const Shape& shape, const Kernel& kernel, const void* args, uint64_t seed, Complaint& complaint)
    : shape_(shape),
      kernel_(kernel),
      args_(args),
      chance_(seed),
      complaint_(complaint),
      fibers_(shape.threads),
      stacks_(aligned(shape.threads * STACK_BYTES)),
      shared_(aligned(shape.shared_bytes)) {}

Block::~Block() {
  std::free(stacks_);
  std::free(shared_);
}

// SplitMix64 (Steele, Lea and Flood 2014).
uint64_t Block::draw() {
  uint64_t z = chance_ += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

void Block::enter() {
  block->kernel_.body(block->args_);
  block->wait(State::Done, "the end", 0);
  std::abort();
}

void Block::wait(State state, const char* what, int line) {
  Fiber& fiber = self();
  fiber.state = state;
  fiber.what = what;
  fiber.line = line;
  shoal_emu_switch(&fiber.stack, scheduler_);
}

void Block::resume(unsigned thread) {
  running_ = thread;
  shoal_emu_switch(&scheduler_, fibers_[thread].stack);
}

void Block::complain(const char* what, int line) {
  char text[400];
  std::snprintf(text, sizeof text, "%s: %s (line %d, block %u,%u,%u, thread %u)", kernel_.name, what, line, at_.x, at_.y,
                at_.z, running_);
  complaint_.set(text);
}

void Block::fail(const char* what, int line) {
  complain(what, line);
  wait(State::Done, what, line);
  std::abort();
}

void Block::check_row(const void* row, const char* what, int line) {
  const auto at = reinterpret_cast<uintptr_t>(row), start = reinterpret_cast<uintptr_t>(shared_);
  if (at < start || at + ROW_BYTES > start + shape_.shared_bytes || at % ROW_BYTES != 0) fail(what, line);
}

void Block::run(Index3 at) {
  block = this;
  at_ = at;
  std::memset(shared_, 0xff, shape_.shared_bytes);  // not a number, in every format
  for (unsigned thread = 0; thread < shape_.threads; thread++) {
    Fiber& fiber = fibers_[thread];
    fiber.stack = fiber_start(stacks_ + (thread + 1) * STACK_BYTES, &Block::enter);
    fiber.state = State::Ready;
    fiber.copies.clear();
    fiber.groups.clear();
  }
  std::vector<unsigned> order(shape_.threads / WARP);
  std::iota(order.begin(), order.end(), 0);
  do {
    for (size_t left = order.size(); left > 1; left--) std::swap(order[left - 1], order[draw() % left]);
    for (unsigned warp : order) {
      if (!run_warp(warp)) return;
    }
  } while (open_barrier());
}

/// Runs a warp until its threads are at a barrier or done; false once something is wrong.
bool Block::run_warp(unsigned warp) {
  for (;;) {
    const unsigned first = warp * WARP, turn = unsigned(draw() % WARP);
    unsigned waiting = 0;
    for (unsigned step = 0; step < WARP; step++) {
      const unsigned thread = first + (step + turn) % WARP;
      if (fibers_[thread].state == State::Ready) resume(thread);
      if (complaint_.is_set) return false;
      waiting += fibers_[thread].state == State::AtWarp;
    }
    if (waiting == 0) return true;
    const Fiber& one = fibers_[first];
    for (unsigned thread = first; thread < first + WARP; thread++) {
      Fiber& fiber = fibers_[thread];
      if (fiber.state != State::AtWarp || fiber.line != one.line || fiber.what != one.what) {
        running_ = thread;
        complain("the lanes of a warp are not at the same warp operation", fiber.line);
        return false;
      }
      fiber.state = State::Ready;
    }
  }
}

/// Lets everybody who waits at the barrier go on; false once nobody does, or if they wait at different ones.
bool Block::open_barrier() {
  int line = 0;
  for (unsigned thread = 0; thread < shape_.threads; thread++) {
    Fiber& fiber = fibers_[thread];
    if (fiber.state == State::Done) continue;
    if (line != 0 && fiber.line != line) {
      running_ = thread;
      complain("threads of the block wait at different barriers", fiber.line);
      return false;
    }
    line = fiber.line;
    fiber.state = State::Ready;
  }
  return line != 0;
}

}  // namespace emu
