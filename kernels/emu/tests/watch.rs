//! The emulation notices what it says it notices.
#![expect(unsafe_code, reason = "launches kernels on its own buffers")]

use shoal_emu::{EmuError, EmuLaunch, INTACT, launch};

#[repr(C)]
struct Args {
    out: *mut u32,
    input: *const u32,
    choice: u32,
    count: u32,
}

const SHARED_BYTES: u32 = 1024;

fn run(
    kernel: &str,
    (blocks, threads): (u32, u32),
    seed: u64,
    (choice, count): (u32, u32),
) -> Result<Vec<u32>, EmuError> {
    let words = (blocks * threads) as usize;
    let input: Vec<u32> = (1000..1000 + words as u32).collect();
    // Asynchronous copies start on 16 bytes.
    let first = input.as_ptr().align_offset(16);
    assert!(first < words);
    let mut out = vec![0; words];
    let args = Args { out: out.as_mut_ptr(), input: input.as_ptr().wrapping_add(first), choice, count };
    let shared_input = kernel == "selftest_reverse";
    let args = if shared_input { Args { input: input.as_ptr(), ..args } } else { args };
    // SAFETY: a plain C struct without padding: two addresses and two numbers.
    let bytes = unsafe { std::slice::from_raw_parts((&raw const args).cast::<u8>(), size_of::<Args>()) };
    let variant = INTACT;
    let grid = [blocks, 1, 1];
    let call = EmuLaunch {
        variant,
        kernel,
        grid,
        threads,
        shared_bytes: SHARED_BYTES,
        args: bytes,
        seed,
        host_threads: 2,
    };
    // SAFETY: the kernels write a word for each thread at most and read as many; both buffers live until it returns.
    unsafe { launch(&call) }?;
    Ok(out)
}

fn complaint(kernel: &str, shape: (u32, u32), choice: (u32, u32)) -> String {
    run(kernel, shape, 1, choice).expect_err("it must be noticed").0
}

#[test]
fn every_thread_of_every_block_runs_once() {
    assert_eq!(run("selftest_count", (100, 1024), 1, (0, 0)).unwrap()[0], 102_400);
    assert_eq!(run("selftest_count", (1, 32), 1, (0, 0)).unwrap()[0], 32);
}

#[test]
fn a_missing_barrier_shows() {
    let reversed: Vec<u32> = (0..512).map(|at| 1000 + at / 128 * 128 + 127 - at % 128).collect();
    for seed in 0..5 {
        assert_eq!(run("selftest_reverse", (4, 128), seed, (0, 0)).unwrap(), reversed);
        assert_ne!(run("selftest_reverse", (4, 128), seed, (1, 0)).unwrap(), reversed);
    }
}

#[test]
fn divergence_is_an_error() {
    let barrier = complaint("selftest_divergent_barrier", (1, 64), (0, 0));
    assert!(barrier.contains("different barriers"), "{barrier}");
    let warp = complaint("selftest_divergent_warp", (1, 64), (7, 0));
    assert!(warp.contains("not at the same warp operation"), "{warp}");
}

#[test]
fn a_copy_arrives_when_it_is_waited_for_and_lies_inside() {
    let waited = run("selftest_copy", (1, 32), 1, (0, 1)).unwrap();
    assert!((1000..1004).contains(&waited[0]));
    assert_eq!(run("selftest_copy", (1, 32), 1, (0, 0)).unwrap()[0], u32::MAX, "poison");
    for choice in [8, SHARED_BYTES] {
        let outside = complaint("selftest_copy", (1, 32), (choice, 1));
        assert!(outside.contains("cp.async outside of shared memory"), "{outside}");
    }
}

#[test]
fn a_vector_off_its_boundary_shows() {
    assert_eq!(
        run("selftest_load", (1, 32), 1, (4, 0)).unwrap()[0]
            - run("selftest_load", (1, 32), 1, (0, 0)).unwrap()[0],
        4
    );
    let off = complaint("selftest_load", (1, 32), (2, 0));
    assert!(off.contains("16 bytes off their boundary"), "{off}");
}

#[test]
fn lanes_vote_and_threads_agree_on_the_largest() {
    let words = run("selftest_vote", (1, 64), 1, (0, 0)).unwrap();
    assert!(words[0] >= 1063, "{}", words[0]);
    assert_eq!(words[1..], [16; 63], "every second lane of each warp");
}

#[test]
fn the_seed_decides_the_order_of_warps() {
    let last = |seed| run("selftest_order", (1, 256), seed, (0, 0)).unwrap()[0];
    let lasts: std::collections::BTreeSet<u32> = (0..20).map(last).collect();
    assert!(lasts.len() > 3, "{lasts:?}");
    assert_eq!(last(3), last(3));
}

#[test]
fn shapes_that_no_device_takes_are_refused() {
    assert!(complaint("selftest_nothing", (1, 32), (0, 0)).contains("no kernel"));
    assert!(complaint("selftest_order", (1, 33), (0, 0)).contains("whole warps"));
    assert!(complaint("selftest_copy", (1, 64), (0, 0)).contains("more threads"));
}
