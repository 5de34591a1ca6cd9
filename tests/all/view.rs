use std::process::Command;

/// What the whole mesh costs each client and node that knows it.
#[test]
fn a_view_of_a_full_cell_takes_less_than_ten_megabytes() {
    let output = Command::new(env!("CARGO_BIN_EXE_count-view-bytes")).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let bytes: Vec<u64> = text.split_whitespace().map(|bytes| bytes.parse().expect("a number")).collect();
    let [shared, distinct] = bytes[..] else {
        panic!("{text}{}", String::from_utf8_lossy(&output.stderr));
    };
    // 32,768 places of 32 bytes are 1 MB: less would mean that something was not counted.
    assert!((1 << 20..10_000_000).contains(&shared), "{shared} bytes where 256 models are shared");
    assert!((shared..10_000_000).contains(&distinct), "{distinct} bytes where every model is another");
}
