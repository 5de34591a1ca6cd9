//! A terminal taken over for a while, and given back as it was however the command ends.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Read};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

use super::picture::Room;
use crate::cli::exit::Stop;
use crate::cli::output::Output;

/// Another screen, so that the scroll-back stays as it is, without a cursor (xterm control sequences, ctlseqs).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Every line is written over the former one: clearing first would flicker.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
/// Keys that nobody has read yet.
const KEYS_MAX: usize = 16;
/// Where the terminal does not tell its size.
const ROOM_DEFAULT: Room = Room { columns: 80, rows: 24 };

/// The screen, from [`enter`](Self::enter) to its drop.
pub(super) struct Screen {
    output: Output,
    /// How the keyboard was, where there is one.
    former: Option<Termios>,
}

impl Screen {
    pub(super) fn enter() -> Result<Self, Stop> {
        let mut screen = Self { output: Output::new(), former: None };
        if io::stdin().is_terminal()
            && let Ok(former) = tcgetattr(io::stdin())
        {
            // Keys one by one and unseen; the interrupt stays a signal.
            let mut quiet = former.clone();
            quiet.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            if tcsetattr(io::stdin(), OptionalActions::Now, &quiet).is_ok() {
                screen.former = Some(former);
            }
        }
        screen.output.text(ENTER)?;
        screen.output.flush()?;
        Ok(screen)
    }

    /// Its size now.
    pub(super) fn room() -> Room {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                Room { columns: usize::from(size.ws_col), rows: usize::from(size.ws_row) }
            }
            _ => ROOM_DEFAULT,
        }
    }

    /// Shows the lines, which must fit.
    pub(super) fn draw(&mut self, lines: &[String]) -> Result<(), Stop> {
        let mut text = HOME.to_owned();
        for (index, line) in lines.iter().enumerate() {
            let next = if index == 0 { "" } else { "\r\n" };
            write!(text, "{next}{line}{CLEAR_LINE}").expect("a string takes everything");
        }
        text.push_str(CLEAR_BELOW);
        self.output.text(&text)?;
        self.output.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = self.output.text(LEAVE).and_then(|()| self.output.flush());
        if let Some(former) = &self.former {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, former);
        }
    }
}

/// What is typed. Reading blocks, so it has a thread, which nobody waits for at the end.
pub(super) fn keys() -> mpsc::Receiver<u8> {
    let (send, keys) = mpsc::channel(KEYS_MAX);
    std::thread::spawn(move || {
        let mut key = [0];
        while matches!(io::stdin().read(&mut key), Ok(1)) && send.blocking_send(key[0]).is_ok() {}
    });
    keys
}
