//! How tests find the library and plan what goes wrong.

use std::ffi::{CString, c_char, c_uint};
use std::path::PathBuf;

use libloading::Library;

use crate::HANG;

/// What a planned fault does.
#[derive(Clone, Copy, Debug)]
pub enum Planned {
    /// The call answers that there is no memory, and nothing else happens.
    NoMemory,
    /// The call answers that a kernel went astray, and the context is gone.
    IllegalAddress,
    /// What waits from then on waits for ever.
    Hang,
}

impl Planned {
    /// As the environment of a process calls it.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "no-memory" => Some(Self::NoMemory),
            "illegal-address" => Some(Self::IllegalAddress),
            "hang" => Some(Self::Hang),
            _ => None,
        }
    }

    /// The driver's code, and whether the context is lost with it.
    pub(crate) fn code(self) -> (u32, bool) {
        match self {
            Self::NoMemory => (2, false),
            Self::IllegalAddress => (700, true),
            Self::Hang => (HANG, false),
        }
    }
}

/// Where cargo puts the library: beside the tests that depend on it.
///
/// # Panics
/// The process does not know where it is.
#[must_use]
pub fn library() -> PathBuf {
    let tests = std::env::current_exe().expect("a test has a path");
    tests.with_file_name("libshoal_standin.so")
}

/// Plans what the driver's call of this name meets on a device, after so many that succeed.
///
/// # Panics
/// The library is not there.
pub fn plan(ordinal: u32, call: &str, after: u64, planned: Planned) {
    type Plan = unsafe extern "C" fn(c_uint, *const c_char, u64, u32, bool);
    let (code, is_sticky) = planned.code();
    let call = CString::new(call).expect("a name");
    let library = loaded();
    // SAFETY: `symbols.rs` declares the function so; the name ends in zero and lives until it returns.
    unsafe {
        let plan = library.get::<Plan>(b"shoal_standin_fault").expect("the stand-in has it");
        plan(ordinal, call.as_ptr(), after, code, is_sticky);
    }
}

/// Has work on a device run before anybody waits for it now and then, as the seed has it.
///
/// # Panics
/// The library is not there.
pub fn hurry(ordinal: u32, seed: u64) {
    type Hurry = unsafe extern "C" fn(c_uint, u64);
    let library = loaded();
    // SAFETY: `symbols.rs` declares the function so.
    unsafe {
        let hurry = library.get::<Hurry>(b"shoal_standin_seed").expect("the stand-in has it");
        hurry(ordinal, seed);
    }
}

/// What happened on a device since the last time, in order: `i` a copy to it was put in, `l` a launch, `o` a copy from it, `d`
/// an event was found to be done.
///
/// # Panics
/// The library is not there.
#[must_use]
pub fn log(ordinal: u32) -> String {
    type Log = unsafe extern "C" fn(c_uint, *mut u8, usize) -> usize;
    let (library, mut letters) = (loaded(), vec![0; 1 << 16]);
    // SAFETY: `symbols.rs` declares the function so; there is as much room as is said.
    let written = unsafe {
        let log = library.get::<Log>(b"shoal_standin_log").expect("the stand-in has it");
        log(ordinal, letters.as_mut_ptr(), letters.len())
    };
    letters.truncate(written);
    String::from_utf8(letters).expect("letters")
}

fn loaded() -> Library {
    // SAFETY: the library has no initialiser but those that register kernels.
    unsafe { Library::new(library()) }.expect("the stand-in stands beside the tests")
}
