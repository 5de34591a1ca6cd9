//! Encodes texts on a mesh and prints one line for each.
//!
//! ```text
//! cargo run -p shoal-mesh --example encode -- 127.0.0.1:7070 ./identity all-minilm-l6-v2 "first text" "second text"
//! ```
//!
//! `./identity` is a client's directory as `shoal mesh init` writes it.
#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use shoal_mesh::{Client, ConnectOptions, Encode, Identity, ItemResult, Vector};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(identity), Some(model)) = (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: encode HOST:PORT IDENTITY_DIR MODEL TEXT…".into());
    };
    let identity = Identity::load(Path::new(&identity))?;
    let client = Client::connect(ConnectOptions::new([address], identity)).await?;

    // A stream, so that it does not matter how many texts there are. Dropping it would cancel the call at the node.
    let call = Encode::new(model, arguments).deadline(Duration::from_secs(60));
    let mut results = client.encode_stream(call);
    while let Some(result) = results.next().await {
        match result? {
            (index, item @ ItemResult::Answered { tokens, .. }) => {
                let values = item.vector().and_then(Vector::as_f32).ok_or("f32 was asked for")?;
                let first = &values[..values.len().min(4)];
                println!("{index}: {tokens} tokens, {} values: {first:?} …", values.len());
            }
            (index, ItemResult::Failed { code, message, .. }) => {
                println!("{index}: {}: {message}", code.as_str());
            }
        }
    }
    if let Some(summary) = results.summary() {
        let device = summary.served_by.as_ref().map_or("nowhere", |by| &by.device_name);
        println!("{} texts, {} tokens, on {device}", summary.items, summary.tokens);
    }
    Ok(())
}
