//! What the machine offers, read once.

use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

/// The machine's size, as this process may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// CPU cores that this process may use (affinity and cgroup quota applied).
    pub cores: usize,
    /// Bytes of memory that this process may use: physical memory or the cgroup's limit, whichever is smaller.
    pub memory_bytes: u64,
}

impl Machine {
    /// Reads the machine that the process runs on. What cannot be read is taken as 1 core and 4 GiB.
    #[must_use]
    pub fn detect() -> Self {
        let physical =
            fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_total(&text)).unwrap_or(4 << 30);
        let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
            .iter()
            .find_map(|path| fs::read_to_string(Path::new(path)).ok())
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(u64::MAX);
        Self { cores: available_parallelism().map_or(1, usize::from), memory_bytes: physical.min(limit) }
    }
}

/// `MemTotal` of /proc/meminfo, in bytes.
fn meminfo_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_bytes() {
        let text = "MemTotal:       24597348 kB\nMemFree:        100 kB\n";
        assert_eq!(meminfo_total(text), Some(24_597_348 * 1024));
        assert_eq!(meminfo_total("garbage"), None);
    }

    #[test]
    fn this_machine_has_cores_and_memory() {
        let machine = Machine::detect();
        assert!(machine.cores >= 1 && machine.memory_bytes >= 64 << 20, "{machine:?}");
    }
}
