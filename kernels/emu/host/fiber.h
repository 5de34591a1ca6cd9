// Switching between stacks: what one CUDA thread is on the host.
#pragma once

namespace emu {

/// Saves the caller's registers on its stack, stores that stack's pointer in `*from` and goes on where `to` was left.
extern "C" void shoal_emu_switch(void** from, void* to);

/// A stack that goes on at `entry`, which never returns. `top` is the first byte after the stack.
void* fiber_start(unsigned char* top, void (*entry)());

}  // namespace emu
