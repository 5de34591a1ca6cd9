#include "fiber.h"

#include <cstdint>

// What the calling convention lets a callee keep: System V x86-64 (rbx, rbp, r12-r15), AAPCS64 (x19-x30, d8-d15). The
// floating-point control words are never changed here, so they are not switched.
#if defined(__x86_64__)
asm(R"(
.text
.globl shoal_emu_switch
.type shoal_emu_switch, @function
shoal_emu_switch:
  pushq %rbx
  pushq %rbp
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbp
  popq %rbx
  ret
.size shoal_emu_switch, .-shoal_emu_switch
)");

static constexpr int ENTRY = 6, WORDS = 8;
#elif defined(__aarch64__)
asm(R"(
.text
.globl shoal_emu_switch
.type shoal_emu_switch, %function
shoal_emu_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size shoal_emu_switch, .-shoal_emu_switch
)");

static constexpr int ENTRY = 11, WORDS = 20;
#else
#error "the emulation switches stacks by hand: add this architecture's callee-saved registers"
#endif

namespace emu {

void* fiber_start(unsigned char* top, void (*entry)()) {
  auto* end = reinterpret_cast<uintptr_t*>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t(15));
  uintptr_t* stack = end - WORDS;
  for (int word = 0; word < WORDS; word++) stack[word] = 0;
  // On x86-64 the return address lies below one word of padding, so that `entry` finds the stack as after a call.
  stack[ENTRY] = reinterpret_cast<uintptr_t>(entry);
  return stack;
}

}  // namespace emu
