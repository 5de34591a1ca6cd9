use std::ffi::{CStr, CString, c_char, c_int, c_void};

/// A launch of one kernel: what the driver's takes, by name.
#[derive(Clone, Copy, Debug)]
pub struct EmuLaunch<'a> {
    /// [`INTACT`](crate::INTACT), or the name of a planted bug.
    pub variant: &'a str,
    /// The kernel.
    pub kernel: &'a str,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block: whole warps.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// The kernel's one argument, by its bytes; addresses in it are of this process.
    pub args: &'a [u8],
    /// Decides the order of blocks, warps and lanes.
    pub seed: u64,
    /// Threads of the host to run blocks on.
    pub host_threads: u32,
}

/// Why a launch did not run to its end. What it wrote until then stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EmuError(pub String);

/// The twin of `ShoalEmuLaunch` in `host/launch.cpp`.
#[repr(C)]
struct Raw {
    variant: *const c_char,
    kernel: *const c_char,
    grid: [u32; 3],
    threads: u32,
    shared_bytes: u64,
    args: *const c_void,
    args_bytes: u64,
    seed: u64,
    host_threads: u32,
}

const TEXT_BYTES: usize = 512;

unsafe extern "C" {
    fn shoal_emu_launch(launch: *const Raw, text: *mut c_char, text_bytes: u64) -> c_int;
    fn shoal_emu_args_bytes(variant: *const c_char, kernel: *const c_char) -> u64;
    fn shoal_emu_anchors();
}

/// Bytes of the one argument of a kernel without a bug; none: there is no such kernel.
#[must_use]
pub fn args_bytes(kernel: &str) -> Option<usize> {
    let (variant, kernel) = (CString::new(crate::INTACT).ok()?, CString::new(kernel).ok()?);
    // SAFETY: it does nothing but name the objects whose initialisers register kernels, so that they are linked.
    unsafe { shoal_emu_anchors() };
    // SAFETY: both names end in zero and live until the call returns.
    let bytes = unsafe { shoal_emu_args_bytes(variant.as_ptr(), kernel.as_ptr()) };
    usize::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}

/// Runs a kernel to its end.
///
/// # Safety
/// Every address in `args` must be good for what the kernel does with it, from several threads at a time.
///
/// # Errors
/// The kernel is not known, the launch has a shape that no device takes, or the kernel broke a rule that the emulation
/// watches.
pub unsafe fn launch(launch: &EmuLaunch<'_>) -> Result<(), EmuError> {
    let name = |text: &str| CString::new(text).map_err(|_| EmuError(format!("{text:?} is not a name")));
    let (variant, kernel) = (name(launch.variant)?, name(launch.kernel)?);
    // Kernels read their argument as a struct with 8-byte members.
    let mut args = vec![0_u64; launch.args.len().div_ceil(8)];
    for (word, bytes) in args.iter_mut().zip(launch.args.chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(whole);
    }
    let raw = Raw {
        variant: variant.as_ptr(),
        kernel: kernel.as_ptr(),
        grid: launch.grid,
        threads: launch.threads,
        shared_bytes: u64::from(launch.shared_bytes),
        args: args.as_ptr().cast(),
        args_bytes: launch.args.len() as u64,
        seed: launch.seed,
        host_threads: launch.host_threads,
    };
    let mut text: [c_char; TEXT_BYTES] = [0; TEXT_BYTES];
    // SAFETY: it does nothing but name the objects whose initialisers register kernels, so that they are linked.
    unsafe { shoal_emu_anchors() };
    // SAFETY: `raw` has the layout that the C++ side declares; its strings end in zero, `args` holds `args_bytes`
    // aligned bytes, and all of them live until the call returns, after the emulation's threads have ended. At most
    // `TEXT_BYTES` are written to `text`. The addresses inside `args` are the caller's promise.
    let status = unsafe { shoal_emu_launch(&raw const raw, text.as_mut_ptr(), TEXT_BYTES as u64) };
    if status == 0 {
        return Ok(());
    }
    // SAFETY: a status other than 0 comes with a text that ends in zero within the buffer.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) };
    Err(EmuError(text.to_string_lossy().into_owned()))
}
