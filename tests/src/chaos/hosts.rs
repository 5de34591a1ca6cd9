//! Where the processes run: a network namespace each, joined by veth to one bridge, or addresses of the loopback where
//! the kernel or the user's rights do not allow that.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs on one machine at once that have namespaces.
const GROUNDS_MAX: u8 = 16;

/// Hosts for processes. Dropping it takes the namespaces away; one whose process was killed is taken away by the next.
#[derive(Debug)]
pub struct Hosts {
    seats: u16,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The number of the bridge, which is in its name and in every address.
    Namespaces(u8),
    /// Why not.
    Loopback(String),
}

impl Hosts {
    /// Hosts for `seats` processes, in namespaces if they can be had.
    #[must_use]
    pub fn new(seats: u16) -> Self {
        sweep();
        let made = (0..GROUNDS_MAX).find_map(|number| {
            match run("ip", &["link", "add", &bridge(number), "type", "bridge"]) {
                Ok(()) => Some(Ok(number)),
                Err(error) if error.contains("File exists") => None,
                Err(error) => Some(Err(error)),
            }
        });
        let number = match made {
            Some(Ok(number)) => number,
            Some(Err(error)) => return Self { seats, kind: Kind::Loopback(error) },
            None => return Self { seats, kind: Kind::Loopback("every number is in use".to_owned()) },
        };
        // From here on dropping it cleans up.
        let mut hosts = Self { seats, kind: Kind::Namespaces(number) };
        if let Err(error) = hosts.build(number) {
            remove(number);
            hosts.kind = Kind::Loopback(error);
        }
        hosts
    }

    fn build(&self, number: u8) -> Result<(), String> {
        let bridge = bridge(number);
        run("ip", &["link", "set", &bridge, "alias", &owner(std::process::id())])?;
        run("ip", &["addr", "add", &format!("{}/24", address(number, 1)), "dev", &bridge])?;
        run("ip", &["link", "set", &bridge, "up"])?;
        for seat in 0..self.seats {
            let (space, veth) = (namespace(number, seat), veth(number, seat));
            run("ip", &["netns", "add", &space])?;
            run("ip", &["link", "add", &veth, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
            run("ip", &["link", "set", &veth, "master", &bridge, "up"])?;
            let own = format!("{}/24", self.ip(seat));
            run("ip", &["-n", &space, "addr", "add", &own, "dev", "eth0"])?;
            run("ip", &["-n", &space, "link", "set", "eth0", "up"])?;
            run("ip", &["-n", &space, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    /// What the report says about it.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Namespaces(_) => {
                "a network namespace for each node, joined by veth to one bridge".to_owned()
            }
            Kind::Loopback(why) => format!("LOOPBACK ADDRESSES, no network namespaces ({why})"),
        }
    }

    /// Whether links can be taken down.
    #[must_use]
    pub fn has_links(&self) -> bool {
        matches!(self.kind, Kind::Namespaces(_))
    }

    /// What exists in the file system for as long as the hosts do.
    #[must_use]
    pub fn traces(&self) -> Vec<PathBuf> {
        let Kind::Namespaces(number) = self.kind else { return Vec::new() };
        let links = Path::new("/sys/class/net");
        let of_seat =
            |seat| [Path::new("/run/netns").join(namespace(number, seat)), links.join(veth(number, seat))];
        (0..self.seats).flat_map(of_seat).chain([links.join(bridge(number))]).collect()
    }

    /// Where the relay listens.
    #[must_use]
    pub fn relay_ip(&self) -> IpAddr {
        match self.kind {
            Kind::Namespaces(number) => address(number, 1),
            Kind::Loopback(_) => Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// Where the process on a seat listens and from where it sends.
    #[must_use]
    pub fn ip(&self, seat: u16) -> IpAddr {
        let host = 10 + u8::try_from(seat).unwrap_or(u8::MAX - 10);
        match self.kind {
            Kind::Namespaces(number) => address(number, host),
            Kind::Loopback(_) => Ipv4Addr::new(127, 0, 0, host).into(),
        }
    }

    /// A command that runs on a seat and dies with this thread, even where this process is killed.
    #[must_use]
    pub fn command(&self, seat: u16, program: &Path) -> Command {
        let mut words = Vec::new();
        if let Kind::Namespaces(number) = self.kind {
            words.extend(["nsenter".to_owned(), format!("--net=/run/netns/{}", namespace(number, seat))]);
        }
        if has_setpriv() {
            words.extend(["setpriv", "--pdeathsig", "KILL"].map(str::to_owned));
        }
        let Some((first, rest)) = words.split_first() else { return Command::new(program) };
        let mut command = Command::new(first);
        command.args(rest).arg(program);
        command
    }

    /// Takes a seat's link down or up.
    ///
    /// # Errors
    /// In words: there is no link, or `ip` failed.
    pub fn set_link(&self, seat: u16, up: bool) -> Result<(), String> {
        let Kind::Namespaces(number) = self.kind else { return Err("the loopback has no links".to_owned()) };
        run("ip", &["link", "set", &veth(number, seat), if up { "up" } else { "down" }])
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if let Kind::Namespaces(number) = self.kind {
            remove(number);
        }
    }
}

fn bridge(number: u8) -> String {
    format!("shoalbr{number}")
}

fn namespace(number: u8, seat: u16) -> String {
    format!("shoal{number}-{seat}")
}

fn veth(number: u8, seat: u16) -> String {
    format!("shoalv{number}-{seat}")
}

fn owner(pid: u32) -> String {
    format!("pid {pid}")
}

/// A private range that hardly anybody uses; the routes of the bridge win where somebody does.
fn address(number: u8, host: u8) -> IpAddr {
    Ipv4Addr::new(10, 213, number, host).into()
}

fn has_setpriv() -> bool {
    run("setpriv", &["--version"]).is_ok()
}

/// Takes away what runs left behind that were killed.
fn sweep() {
    for number in 0..GROUNDS_MAX {
        let alias = std::fs::read_to_string(format!("/sys/class/net/{}/ifalias", bridge(number)));
        let Some(pid) = alias.ok().and_then(|alias| Some(alias.trim().strip_prefix("pid ")?.to_owned()))
        else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            remove(number);
        }
    }
}

/// What is not there needs no removing, so that failures say nothing.
fn remove(number: u8) {
    let prefix = format!("shoal{number}-");
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name();
        if let Some((name, seat)) = name.to_str().and_then(|name| Some((name, name.strip_prefix(&prefix)?))) {
            // The kernel takes a namespace away some time later; the link's name must be free at once.
            drop(run("ip", &["link", "del", &format!("shoalv{number}-{seat}")]));
            drop(run("ip", &["netns", "del", name]));
        }
    }
    // Last: its name holds the number.
    drop(run("ip", &["link", "del", &bridge(number)]));
}

/// Runs a command to its end; its words if it fails.
fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let ran = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = ran.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", args.join(" "), words.trim()))
}
