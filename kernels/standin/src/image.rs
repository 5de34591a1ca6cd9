//! Which of the project's modules an image is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use cudarc::driver::sys::CUresult;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::device::Answer;

/// First word of a fat binary.
const MAGIC: u32 = 0xba55_ed50;

#[derive(Deserialize)]
struct Manifest {
    modules: BTreeMap<String, Module>,
}

#[derive(Deserialize)]
struct Module {
    fatbin: String,
    registers: BTreeMap<String, u32>,
}

static MANIFEST: LazyLock<Manifest> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../cuda/prebuilt/MANIFEST.json"))
        .expect("the manifest is checked in")
});

/// What begins a fat binary: a version and the bytes of header and rest.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    magic: u32,
    version: u16,
    header_bytes: u16,
    rest_bytes: u64,
}

/// The names of the kernels of the module that `image` is, byte for byte.
///
/// # Safety
/// A fat binary stands at `image`, of the bytes that its own header states.
pub(crate) unsafe fn kernels(image: *const u8) -> Answer<Vec<&'static str>> {
    // SAFETY: the caller has a header there; it need not be aligned.
    let header = unsafe { image.cast::<Header>().read_unaligned() };
    if header.magic != MAGIC || header.version != 1 {
        return Err(CUresult::CUDA_ERROR_INVALID_IMAGE);
    }
    let bytes = u64::from(header.header_bytes) + header.rest_bytes;
    // SAFETY: the caller has all of the binary there.
    let image = unsafe { std::slice::from_raw_parts(image, bytes as usize) };
    let hash = Sha256::digest(image).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let module = MANIFEST.modules.values().find(|module| module.fatbin == hash);
    let module = module.ok_or(CUresult::CUDA_ERROR_INVALID_IMAGE)?;
    Ok(module.registers.keys().map(String::as_str).collect())
}
