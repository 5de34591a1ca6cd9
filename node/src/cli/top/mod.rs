//! `shoal top`: a mesh, watched.

mod picture;
mod terminal;
#[cfg(test)]
mod testing;
mod watch;

use shoal_mesh::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use self::picture::{Room, lines};
use self::terminal::{Screen, keys};
use self::watch::Watch;
use super::args::TopArgs;
use super::census::Census;
use super::exit::{Exit, Stop};
use super::output::{Output, is_piped};
use super::runtime::run_interruptible;
use super::target::connect;
use crate::clock;

pub(super) fn run(args: &TopArgs) -> Result<Exit, Stop> {
    run_interruptible(async {
        let client = connect(&args.mesh).await?;
        if args.once || is_piped() { once(&client).await } else { watch(&client, args).await }
    })
}

async fn once(client: &Client) -> Result<Exit, Stop> {
    let (mut watch, census) = (Watch::default(), Census::take(client, true).await?);
    watch.handle_look(&census, clock::now());
    let mut output = Output::new();
    lines(&census, &watch, Room::UNBOUNDED).iter().try_for_each(|line| output.line(line))?;
    output.flush()?;
    Ok(Exit::Ok)
}

async fn watch(client: &Client, args: &TopArgs) -> Result<Exit, Stop> {
    let mut watch = Watch::default();
    // A terminal must be given back also where the process is asked to end.
    let mut terminate = signal(SignalKind::terminate()).map_err(Stop::with(Exit::Unavailable))?;
    let mut screen = Screen::enter()?;
    let mut keys = keys();
    let mut ticks = tokio::time::interval(args.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let look = async {
            ticks.tick().await;
            Census::take(client, true).await
        };
        tokio::select! {
            census = look => match census {
                Ok(census) => {
                    watch.handle_look(&census, clock::now());
                    screen.draw(&lines(&census, &watch, Screen::room()))?;
                }
                // It may come back, and the client looks for another entry.
                Err(stop) => screen.draw(&[stop.message])?,
            },
            Some(key) = keys.recv() => if matches!(key, b'q' | b'Q') { return Ok(Exit::Ok) },
            _ = terminate.recv() => return Ok(Exit::Ok),
        }
    }
}
