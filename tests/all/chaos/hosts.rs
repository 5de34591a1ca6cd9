//! Hosts for processes: apart from each other while they are there, and gone without a trace.

use std::collections::BTreeSet;
use std::path::Path;

use shoal_tests::chaos::Hosts;

#[test]
fn hosts_are_apart_and_leave_nothing_behind() {
    let (hosts, others) = (Hosts::new(2), Hosts::new(2));
    let traces: Vec<_> = hosts.traces().into_iter().chain(others.traces()).collect();
    assert_eq!(traces.iter().collect::<BTreeSet<_>>().len(), traces.len(), "two runs share nothing");
    assert!(traces.iter().all(|trace| trace.exists()), "{traces:?}");
    assert_eq!(traces.is_empty(), hosts.describe().contains("LOOPBACK"), "{}", hosts.describe());

    let addresses = |hosts: &Hosts| {
        let show = |seat| {
            let output = hosts.command(seat, Path::new("cat")).arg("/proc/net/fib_trie").output();
            String::from_utf8(output.expect("runs").stdout).expect("text")
        };
        (show(0), show(1))
    };
    let (first, second) = addresses(&hosts);
    if hosts.has_links() {
        assert!(first.contains(&hosts.ip(0).to_string()) && !first.contains(&hosts.ip(1).to_string()));
        assert!(second.contains(&hosts.ip(1).to_string()) && !second.contains(&hosts.ip(0).to_string()));
        hosts.set_link(0, false).expect("it has a link");
    }
    drop((hosts, others));
    assert!(!traces.iter().any(|trace| trace.exists()), "{traces:?}");
}
